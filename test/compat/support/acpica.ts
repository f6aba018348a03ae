/** ACPICA's tools on our tables: the code that Linux itself runs. */
import { execFile } from 'node:child_process';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll } from 'vitest';
import { Reader } from '../../../src/bytes.ts';
import type { Tables } from '../../../src/vmm/acpi/tables.ts';

export const RSDP_BYTES = 36;

/** Follows the packing from the RSDP to the end of the blob: signature to address and bytes. */
export function tablesOf({ gpa, bytes }: Tables) {
  const tables = new Map<string, { gpa: number; bytes: Uint8Array }>();
  for (let at = RSDP_BYTES; at < bytes.length; ) {
    const signature = Buffer.from(bytes.subarray(at, at + 4)).toString('latin1');
    const sizeBytes = new Reader(bytes).u32(at + 4);
    tables.set(signature, { gpa: gpa + at, bytes: bytes.slice(at, at + sizeBytes) });
    at += sizeBytes;
  }
  return tables;
}

const run = promisify(execFile);
async function tool(program: string, ...args: string[]): Promise<string> {
  try {
    const { stdout, stderr } = await run(program, args, { cwd: dir });
    return stdout + stderr;
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT')
      throw new Error(`${program} is not installed: apt-get install acpica-tools`, { cause });
    throw cause;
  }
}

let dir = '';
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'acpi-'));
});
afterAll(() => rm(dir, { recursive: true }));

/** Disassembles, recompiles; returns the source and what the compiler said at the end. */
export async function recompile(stem: string, bytes: Uint8Array) {
  await writeFile(join(dir, `${stem}.aml`), bytes);
  await tool('iasl', '-d', `${stem}.aml`);
  const verdict = await tool('iasl', '-p', join(dir, `${stem}.out`), `${stem}.dsl`);
  return { verdict, source: await readFile(join(dir, `${stem}.dsl`), 'latin1') };
}

/** What the interpreter prints for one command, run on the DSDT; `fill`: what regions read. */
export async function interpret(command: string, bytes: Uint8Array, fill = 0): Promise<string> {
  const file = `${Math.random()}.aml`;
  await writeFile(join(dir, file), bytes);
  return tool('acpiexec', '-fv', String(fill), '-b', command, file);
}
