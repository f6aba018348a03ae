/** JSON bodies from clients, which may be anything. */
import { isUtf8 } from 'node:buffer';
import { VmmError } from '../errors.ts';

/** As deep as the original follows; a VmConfig needs six. */
const DEPTH_MAX = 128;

const QUOTE = 0x22;
const BACKSLASH = 0x5c;
const OPEN = 0x7b;
const CLOSE = 0x7d;

/**
 * Of a repeated key the last counts, and `__proto__` is a key like another.
 * @throws VmmError 'invalid-config', its cause saying where the text stops being JSON.
 */
export function parseJson(bytes: Buffer): unknown {
  try {
    if (!isUtf8(bytes)) throw new SyntaxError('The body is not UTF-8');
    if (isDeeperThan(bytes, DEPTH_MAX)) throw new SyntaxError('recursion limit exceeded');
    return JSON.parse(bytes.toString());
  } catch (error) {
    throw new VmmError('invalid-config', 'Failed to deserialize JSON', error);
  }
}

/** Counts brackets outside strings: JSON.parse itself would build millions of nested arrays. */
function isDeeperThan(bytes: Buffer, limit: number): boolean {
  let depth = 0;
  let inString = false;
  for (let i = 0; i < bytes.length && depth <= limit; i++) {
    const byte = bytes[i];
    if (inString && byte === BACKSLASH) i++;
    else if (byte === QUOTE) inString = !inString;
    else if (!inString) depth += nesting(byte);
  }
  return depth > limit;
}

/** The square brackets differ from the curly ones in bit 5. */
function nesting(byte = 0): number {
  if ((byte | 0x20) === OPEN) return 1;
  return (byte | 0x20) === CLOSE ? -1 : 0;
}
