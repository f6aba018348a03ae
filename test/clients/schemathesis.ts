/** The fuzzing client, which makes its requests of an API document; it speaks TCP alone. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import { dirname, join } from 'node:path';
import { cached, contentKey } from '../../guest-images/cache.ts';
import { progress, run } from '../../guest-images/command.ts';

const REQUIREMENTS = join(import.meta.dirname, 'fuzz/requirements.txt');

/** @returns the path of a Python that has it; made if it is not in the cache. */
export async function schemathesis(): Promise<string> {
  const key = contentKey(await readFile(REQUIREMENTS));
  return join(await cached('schemathesis', key, build), 'bin/python');
}

async function build(draft: string): Promise<void> {
  progress('Installing the fuzzing client');
  const remedy = 'install the package python3-venv, and check that PyPI can be reached';
  await run(['python3', '-m', 'venv', draft], { step: 'Make a Python environment', remedy });
  const pip = ['-m', 'pip', 'install', '--quiet', '--disable-pip-version-check'];
  await run([join(draft, 'bin/python'), ...pip, '--requirement', REQUIREMENTS], {
    step: 'Install the fuzzing client',
    remedy,
  });
}

export interface Fuzzed {
  /** 0 if no answer broke the document. */
  code: number;
  output: string;
  /** Of all answers. */
  statuses: Set<number>;
  /** What was refused, each as `PUT /vm.boot: TEXT; TEXT`. */
  refusals: Set<string>;
}

/** The client waits for each answer, which comes as one piece. */
function relay(client: Socket, vmm: Socket, onAnswer: (request: string, answer: string) => void) {
  let request = '';
  client.on('data', (bytes) => {
    request += bytes.toString('latin1');
  });
  vmm.on('data', (bytes) => {
    onAnswer(request, bytes.toString('latin1'));
    request = '';
  });
  client.pipe(vmm).pipe(client);
  client.on('error', () => vmm.destroy());
  vmm.on('error', () => client.destroy());
}

function refusalOf(request: string, answer: string): string {
  const endpoint = request.split(' HTTP/')[0]?.replace('/api/v1', '');
  const texts = JSON.parse(answer.split('\r\n\r\n')[1] || '[]') as string[] | object;
  return `${endpoint}: ${Array.isArray(texts) ? texts.join('; ') : JSON.stringify(texts)}`;
}

/** @param excluded paths of the document that are not to be called. */
export async function fuzz(
  python: string,
  document: string,
  socketPath: string,
  excluded: readonly string[],
): Promise<Fuzzed> {
  const statuses = new Set<number>();
  const refusals = new Set<string>();
  const server = createServer((client) => {
    relay(client, connect(socketPath), (request, answer) => {
      const status = Number(/^HTTP\/1\.1 (\d{3}) /.exec(answer)?.[1]);
      if (status) statuses.add(status);
      if (status >= 400) refusals.add(refusalOf(request, answer));
    });
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  const argv = [
    ...['-m', 'schemathesis.cli', 'run', document, '--url', `http://127.0.0.1:${port}/api/v1`],
    ...['--seed', '1', '--max-examples', '5', '--generation-database', 'none', '--no-color'],
    ...['--phases', 'examples,coverage,fuzzing', '--mode', 'positive'],
    ...['--checks', 'not_a_server_error,response_schema_conformance,content_type_conformance'],
    ...excluded.flatMap((path) => ['--exclude-path', path]),
  ];
  const child = spawn(python, argv, {
    cwd: dirname(socketPath), // it leaves files there
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let output = '';
  child.stdout.on('data', (chunk) => {
    output += chunk;
  });
  const [code] = await once(child, 'close');
  server.close();
  return { code, output, statuses, refusals };
}
