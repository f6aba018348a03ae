/**
 * `ch-remote`: sends one request to the API of a VMM and prints the answer. Its launcher has
 * connected the socket, so that nothing of this needs more of node than files.
 */
import { writeSync } from 'node:fs';
import { errorChain } from '../errors.ts';
import { UsageError } from './cli-scan.ts';
import { exchange, type RemoteReply } from './remote-http.ts';
import { scanRemote } from './remote-scan.ts';

const STDOUT = 1;
const STDERR = 2;

/** As the original names them, and those of ours that it does not have. */
const STATUS_NAMES: Readonly<Record<number, string>> = {
  400: 'BadRequest',
  404: 'NotFound',
  405: 'MethodNotAllowed',
  409: 'Conflict',
  429: 'TooManyRequests',
  500: 'InternalServerError',
};

/** What the launcher has: a connected socket, or why it has none. */
function connected(): { fd: number } | { failed: string } {
  const { CLOUD_HYPERVISOR_REMOTE: value = 'Not started by its launcher' } = process.env;
  return /^\d+$/.test(value) ? { fd: Number(value) } : { failed: value };
}

function print(fd: number, text: string): void {
  let rest = Buffer.from(text);
  while (rest.length > 0) rest = rest.subarray(writeSync(fd, rest));
}

function logLine(part: string, text: string): string {
  const time = new Date().toISOString().replace(/\.\d+Z$/, 'Z');
  return `[${time} ERROR ${part}] ${text}\n`;
}

function failureText(chain: readonly string[]): string {
  const title = 'Error: ch-remote exited with the following';
  const log = logLine('cloud_hypervisor', `Fatal error: ${chain.at(-1)}`);
  if (chain.length === 1) return `${log}${title} error:\n  ${chain[0]}\n`;
  const list = chain.map((text, i) => `  ${i}: ${text}\n`).join('');
  return `${log}${title} chain of errors:\n${list}`;
}

/** A failure's body is a list of texts, outermost first; whatever else it is stands as it is. */
function textsOf({ body = '' }: RemoteReply): string[] {
  try {
    const texts: unknown = JSON.parse(body);
    if (Array.isArray(texts)) return texts.map(String);
  } catch {
    // It is no JSON.
  }
  return body === '' ? [] : [body];
}

/** Resolves with the exit status. */
async function run(args: readonly string[]): Promise<number> {
  const { socket, command, given } = scanRemote(args);
  const connection = connected();
  if (socket === undefined) {
    print(STDERR, logLine('ch_remote', 'Please provide the socket: --api-socket PATH'));
    return 1;
  }
  if ('failed' in connection) {
    print(STDERR, logLine('ch_remote', `Error opening HTTP socket: ${connection.failed}`));
    return 1;
  }
  const request = command.request(given);
  const reply = await exchange(connection.fd, request).catch((cause) => {
    throw new Error('http client error', { cause });
  });
  if (reply.status >= 300) {
    const status = STATUS_NAMES[reply.status] ?? `status ${reply.status}`;
    const chain = ['http client error', `Server responded with ${status}`, ...textsOf(reply)];
    print(STDERR, failureText(chain));
    return 1;
  }
  if (reply.body !== undefined) print(STDOUT, `${reply.body}\n`);
  return 0;
}

async function main(): Promise<number> {
  try {
    return await run(process.argv.slice(2));
  } catch (error) {
    if (error instanceof UsageError) {
      print(STDERR, error.message);
      return error.exitCode;
    }
    print(STDERR, failureText(errorChain(error)));
    return 1;
  }
}

void main().then((status) => process.exit(status));
