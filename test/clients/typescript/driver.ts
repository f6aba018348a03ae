/**
 * Drives a VMM through openapi-fetch, whose calls are typed by what openapi-typescript makes of the
 * API document. It reads steps from stdin, one a line, and answers each with a line of JSON. The
 * first surprise ends it with exit code 1.
 *
 * Usage: driver SOCKET
 *
 * - `ping`: waits for the VMM, as a client that has just started it
 * - `create CONFIG`, `resize RESIZE`, `add-disk DISK`: JSON of the document's schemas
 * - `info STATE`: the answer has the config
 * - `remove-device ID`, `counters`, `boot`, `pause`, `resume`, `reboot`, `nmi`, `power-button`,
 *   `shutdown`, `delete`, `vmm.shutdown`
 */
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import createClient from 'openapi-fetch';
import { Agent, Request, fetch as undiciFetch } from 'undici';
import type { components, paths } from './api.d.ts';

type Schemas = components['schemas'];

/** What any call of openapi-fetch comes to. */
interface Result {
  data?: unknown;
  error?: unknown;
  response: { status: number; ok: boolean };
}

const ANSWER_MS_MAX = 30_000;
const PING_INTERVAL_MS = 10;

const [socketPath] = process.argv.slice(2);
if (socketPath === undefined) {
  console.error('Usage: driver SOCKET < STEPS');
  process.exit(2);
}

const dispatcher = new Agent({ connect: { socketPath } });
const api = createClient<paths>({
  baseUrl: 'http://localhost/api/v1',
  Request: Request as never,
  fetch: ((request: Request) => undiciFetch(request, { dispatcher })) as never,
});

async function ping(): Promise<Result> {
  for (const end = Date.now() + ANSWER_MS_MAX; ; ) {
    const result = await api.GET('/vmm.ping').catch((error: unknown) => {
      if (Date.now() > end) throw error;
    });
    if (result?.data?.version === '') throw new Error("the ping's version is empty");
    if (result) return result;
    await sleep(PING_INTERVAL_MS); // nobody listens there yet
  }
}

async function info(state: string): Promise<Result & { state?: string; config?: unknown }> {
  const { data, ...rest } = await api.GET('/vm.info');
  if (data && data.state !== state) throw new Error(`the state is ${data.state}, not ${state}`);
  return { ...rest, state, config: data?.config };
}

async function addDisk(text: string): Promise<Result & { device?: unknown }> {
  const disk: Schemas['DiskConfig'] = JSON.parse(text);
  const { data, ...rest } = await api.PUT('/vm.add-disk', { body: disk });
  return { ...rest, device: data };
}

const STEPS: Record<string, (argument: string) => Promise<Result>> = {
  ping,
  info,
  create: (text) => api.PUT('/vm.create', { body: JSON.parse(text) as Schemas['VmConfig'] }),
  resize: (text) => api.PUT('/vm.resize', { body: JSON.parse(text) as Schemas['VmResize'] }),
  'add-disk': addDisk,
  'remove-device': (id) => api.PUT('/vm.remove-device', { body: { id } }),
  counters: () => api.GET('/vm.counters'),
  boot: () => api.PUT('/vm.boot'),
  pause: () => api.PUT('/vm.pause'),
  resume: () => api.PUT('/vm.resume'),
  reboot: () => api.PUT('/vm.reboot'),
  nmi: () => api.PUT('/vm.nmi'),
  'power-button': () => api.PUT('/vm.power-button'),
  shutdown: () => api.PUT('/vm.shutdown'),
  delete: () => api.PUT('/vm.delete'),
  'vmm.shutdown': () => api.PUT('/vmm.shutdown'),
};

async function take(line: string): Promise<Record<string, unknown>> {
  const [step = '', ...rest] = line.split(' ');
  try {
    const run = STEPS[step];
    if (!run) throw new Error('there is no such step');
    const { data: _, error, response, ...more } = await run(rest.join(' '));
    const refusal = response.ok ? {} : { error: JSON.stringify(error) };
    return { step, status: response.status, ...more, ...refusal };
  } catch (error) {
    return { step, error: String(error) };
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  const answer = await take(line);
  console.log(JSON.stringify(answer));
  if ('error' in answer) process.exit(1);
}
process.exit(0);
