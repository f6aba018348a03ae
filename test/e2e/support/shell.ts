/** Commands typed at the guest's shell, and their answers picked out of its console. */
import { shellQuote } from '../../host/exec.ts';

export interface Answer {
  code: number;
  /** stdout and stderr as they came, without the last line end. */
  output: string;
}

/** A terminal takes no longer line, the line feed included (N_TTY_BUF_SIZE). */
const LINE_BYTES_MAX = 4095;

/** Silences the terminal's echo and the kernel's messages, which would mix with answers. */
export const QUIET = 'stty -echo; dmesg -n 1';

/**
 * What to type so that `parseAnswer` finds the answer. The command runs in a shell of its own, so
 * that a mistake in it, an `exit` or a `read` cannot upset the one that is typed at.
 *
 * @param mark tells this command from all others; letters and digits.
 */
export function typedCommand(command: string, mark: string): string {
  // The quotes keep the markers out of the line itself, should it be echoed.
  const line =
    `printf '<%s\\n' ${mark}; sh -c ${shellQuote(command)} </dev/null; ` +
    `printf '\\n%s %d>\\n' ${mark} $?\n`;
  const longest = Math.max(...line.split('\n').map((part) => Buffer.byteLength(part) + 1));
  if (longest > LINE_BYTES_MAX)
    throw new Error(`A line of ${longest} bytes is more than a terminal takes: ${command}`);
  return line;
}

/** Matches the console from anywhere before the answer to its end. */
export function answerPattern(mark: string): RegExp {
  return new RegExp(`<${mark}\\n[\\s\\S]*?\\n${mark} \\d+>\\n`);
}

/** @param text what `answerPattern` matched. */
export function parseAnswer(text: string, mark: string): Answer {
  const match = new RegExp(`<${mark}\\n([\\s\\S]*)\\n${mark} (\\d+)>\\n$`).exec(text);
  if (!match) throw new Error(`No answer with the mark ${mark} in: ${text}`);
  const [, output = '', code] = match;
  return { code: Number(code), output: output.replace(/\n$/, '') };
}
