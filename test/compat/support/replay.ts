/** Does again what was done to the original when it was recorded, and notes what differs. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { recording } from '../recordings.ts';
import { kernelOf } from './guests.ts';
import { type Answer, parseAnswer, requestText, VmmProcess } from './vmm-process.ts';

export interface Recorded {
  file: 'errors' | 'lifecycle' | '2020';
  /** Steps of one section follow one another on one process. */
  section: string;
  name: string;
  /** As it goes over the wire, whole or in writes. */
  request: string | readonly string[];
  theirs: Answer;
}

interface RawStep {
  name: string;
  group?: string;
  request?: { method?: string; path?: string; body?: unknown; raw?: string } & Record<
    string,
    unknown
  >;
  response?: { status?: number | null; body?: unknown; raw?: string } & Record<string, unknown>;
}

const SECOND_WRITE = 'raw, second write';
const SECOND_ANSWER = 'raw, after the second write';
const API_ROOT = '/api/v1/';

/** Undefined where no bytes were recorded, only what they were about. */
function wireText({ request = {}, group }: RawStep): Recorded['request'] | undefined {
  const { method, path = '', body, raw } = request;
  if (raw !== undefined) {
    const second = request[SECOND_WRITE];
    if (typeof second === 'string') return [raw, second];
    return raw.includes('\r\n') ? raw : undefined;
  }
  if (method === undefined || !/^[A-Za-z]+$/.test(method)) return undefined;
  if (method === 'RAW' || method === 'CLI') return undefined;
  const target = /^(\/|http:|GET)/.test(path) ? path : API_ROOT + path;
  return requestText(method, target, (group === 'create' ? asSeed(body) : body) ?? undefined);
}

/** The document of 2020 requires a command line; the binary took bodies without. */
function asSeed(body: unknown): unknown {
  const parsed = typeof body === 'string' ? parseOr(body) : body;
  if (typeof parsed !== 'object' || parsed === null) return body;
  if (Array.isArray(parsed) || 'kernel' in parsed || 'cmdline' in parsed) return body;
  return { cmdline: { args: '' }, ...parsed };
}

function theirAnswer({ response = {} }: RawStep): Answer {
  const { status, body, raw } = response;
  if (raw !== undefined) return parseAnswer(`${raw}${response[SECOND_ANSWER] ?? ''}`);
  let parsed: unknown = body === null || body === '' ? undefined : body;
  if (typeof parsed === 'string') parsed = /^[{[]/.test(parsed) ? parseOr(parsed) : parsed;
  return { status: status ?? undefined, head: '', body: parsed, text: '' };
}

function parseOr(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

/** The endpoints of the original that are not served yet. */
const UNSERVED = /\/vm\.(add-(device|user-device|vdpa)|snapshot|restore|coredump|send-|receive-)/;

/** Those that change a VM. */
const CHANGES = /\/vm\.(resize|add-|remove-)/;

const UNSERVED_REASON = 'asks for an endpoint that is not served yet';

/** What a config may name that is not built; such a VM is created, and not booted. */
const UNBUILT = [
  ...['devices', 'user_devices', 'vdpa', 'tpm', 'iommu', 'firmware'],
  ...['kvm_hyperv', 'amx'],
];
const namesUnbuilt = (config: string): boolean =>
  UNBUILT.some((name) => new RegExp(`"${name}"`).test(config));

export interface Replayed extends Recorded {
  ours: Answer;
  /** What the original said to the boot of a config that is refused at vm.create. */
  bootAnswer?: Answer;
}

export interface Replay {
  done: Replayed[];
  /** How many steps were left out, by the reason. */
  skipped: Map<string, number>;
}

const isVerb = (request: Recorded['request'], verb: string) =>
  String(request).startsWith(`PUT ${API_ROOT}${verb} `);

/** Why a step is left out, if it is. */
function skipReason(step: RawStep, request: Recorded['request'] | undefined): string | undefined {
  if (step.request === undefined) return 'says what was done, asks nothing';
  if (request === undefined) return 'was recorded in words, not in bytes';
  if (step.name.startsWith('...')) return 'goes on where the connection of another step was';
  if (UNSERVED.test(String(request))) return UNSERVED_REASON;
  if (/byte ff|\ufffd/.test(String(request))) return 'holds bytes that the recording lost';
  if (/^1[01]th connection/.test(step.name)) return 'needs other connections to be open';
  // The VM is still there in the steps that follow.
  if (step.group !== undefined && isVerb(request ?? '', 'vm.delete') && hasFailed(step))
    return 'asks for a deletion that the original could not do';
  return undefined;
}

/** A resize to the one vCPU that every VM of the recordings has. */
const changesNothing = ({ request }: RawStep): boolean =>
  /^({}|{"desired_vcpus":1})$/.test(JSON.stringify(request?.body ?? {}));

const hasFailed = ({ response }: RawStep): boolean => Number(response?.status) >= 400;

/** Groups of 2020 whose VM was made by steps that were not recorded. */
const WITHOUT_BEGINNING =
  /^(boot errors|hang|failed boot|vsock|two connections|resize|devices|vfio|pause \(|reboot \()/;
/** Groups of 2020 that go on where the one before left. */
const GOES_ON = /^(running|paused|shutdown|info)$/;

/** What is replayed of one file; why the rest is not. */
function recordedSteps(file: Recorded['file'], skip: (reason: string) => void): Recorded[] {
  let section: string = file;
  return recording<RawStep>(file).flatMap((step) => {
    const { name, group } = step;
    if (group !== undefined && !GOES_ON.test(group)) section = group;
    const request = wireText(step);
    const reason = skipReason(step, request) ?? beginning(section);
    if (reason !== undefined) skip(reason);
    if (reason === UNSERVED_REASON && !hasFailed(step) && !changesNothing(step)) return [LEFT_OUT];
    if (reason !== undefined || request === undefined) return [];
    return [{ file, section, name, request, theirs: theirAnswer(step) }];
  });
}

/** Stands for a step that changed the VM, if not ours. */
const LEFT_OUT: Recorded = {
  file: 'errors',
  section: '',
  name: '',
  request: '',
  theirs: parseAnswer(''),
};

const beginning = (section: string): string | undefined =>
  WITHOUT_BEGINNING.test(section) ? 'concerns a VM whose making was not recorded' : undefined;

/** The files that recorded configs name, as far as they were there. */
function furnish(folder: string): void {
  const files = join(folder, '_tmp');
  mkdirSync(join(files, 'g'), { recursive: true });
  const kernel = kernelOf('a guest that prints X and halts');
  for (const name of ['_tmp/tiny-idle', '_tmp/vmlinux', '_tmp/g/hlt.elf', '_k', '_a', '_b', '_j'])
    writeFileSync(join(folder, name), kernel);
  for (const name of ['disk.img', 'guest.gz']) writeFileSync(join(files, name), 'x'.repeat(4096));
}

/** Absolute paths become relative ones of the same length, so that no Content-Length changes. */
const toLocal = (text: string): string => text.replaceAll(/"\/(?=(tmp\b|[kabj]"))/g, '"_');
const fromLocal = (text: string): string => text.replaceAll(/"_(?=(tmp\b|[kabj]"))/g, '"/');

/** Who has a VM of which config, and whether it is one that can be booted. */
class Replayer {
  readonly done: Replayed[] = [];
  readonly #skip: (reason: string) => void;
  #vmm: VmmProcess | undefined;
  #unbuilt = false;
  /** A step that was left out made the VM of the recording another. */
  #changed = false;
  /** The create that was refused, though the original took it. */
  #refused: Replayed | undefined;

  constructor(skip: (reason: string) => void) {
    this.#skip = skip;
  }

  async run(steps: readonly Recorded[]): Promise<void> {
    let section: string | undefined;
    for (const step of steps) {
      if (step === LEFT_OUT) {
        this.#changed = true;
        continue;
      }
      if (step.section !== section) await this.stop();
      section = step.section;
      await this.#step(step);
    }
    await this.stop();
  }

  async stop(): Promise<void> {
    await this.#vmm?.[Symbol.asyncDispose]();
    this.#vmm = undefined;
    this.#unbuilt = false;
    this.#changed = false;
    this.#refused = undefined;
  }

  async #step(step: Recorded): Promise<void> {
    const { request, theirs } = step;
    if (isVerb(request, 'vm.create')) return this.#create(step);
    if (this.#refused && isVerb(request, 'vm.boot')) {
      this.#refused.bootAnswer = theirs;
      return;
    }
    const reason = this.#skipReason(step);
    if (reason !== undefined) this.#skip(reason);
    else {
      const ours = await this.#send(request);
      this.done.push({ ...step, ours });
      // A change that we refuse makes the VM of the recording another.
      const isRefused = (theirs.status ?? 400) < 400 && (ours.status ?? 0) >= 400;
      if (isRefused && CHANGES.test(String(request))) this.#changed = true;
    }
    // A boot gives devices their ids, and writes them to the config.
    if (reason !== undefined && isVerb(request, 'vm.boot')) this.#changed = true;
    if (isVerb(request, 'vmm.shutdown')) await this.stop();
  }

  /** The recorder had deleted what was there, but where it was after that very refusal. */
  async #create(step: Recorded): Promise<void> {
    const { request, theirs } = step;
    const isSecond = JSON.stringify(theirs.body ?? '').match(/already created|VmAlreadyCreated/);
    if (!isSecond) await (await this.#process()).put('vm.delete');
    const replayed: Replayed = { ...step, ours: await this.#send(request) };
    this.done.push(replayed);
    if (isSecond) return;
    const isRefused = theirs.status === 204 && replayed.ours.status !== 204;
    this.#refused = isRefused ? replayed : undefined;
    this.#unbuilt = namesUnbuilt(String(request));
    this.#changed = false;
  }

  #skipReason({ request, theirs }: Recorded): string | undefined {
    const isInfo = String(request).startsWith(`GET ${API_ROOT}vm.info `);
    const isCreated = isInfo && (theirs.body as { state?: string })?.state === 'Created';
    const needsNoVm = / \S*vmm\.| \S*vm\.delete /.test(String(request));
    if (this.#refused) return 'comes after a config that we refuse';
    if (needsNoVm) return undefined;
    if (this.#changed) return 'comes after a change that was left out';
    return this.#unbuilt && !isCreated ? 'runs a VM with what is not built' : undefined;
  }

  async #process(): Promise<VmmProcess> {
    if (this.#vmm) return this.#vmm;
    this.#vmm = await VmmProcess.start({ through: ['/usr/bin/unshare', '-n'] });
    furnish(this.#vmm.folder);
    return this.#vmm;
  }

  async #send(request: Recorded['request']): Promise<Answer> {
    const vmm = await this.#process();
    const local = typeof request === 'string' ? toLocal(request) : request.map(toLocal);
    const { text } = await vmm.raw(local).catch(() => ({ text: '' }));
    return parseAnswer(fromLocal(text));
  }
}

export async function replayAll(): Promise<Replay> {
  const skipped = new Map<string, number>();
  const skip = (reason: string) => void skipped.set(reason, (skipped.get(reason) ?? 0) + 1);
  const replayer = new Replayer(skip);
  for (const file of ['errors', 'lifecycle', '2020'] as const)
    await replayer.run(recordedSteps(file, skip));
  return { done: replayer.done, skipped };
}
