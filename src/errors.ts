/** What went wrong, for code that must decide: the API maps each kind to one HTTP status. */
export type ErrorKind =
  | 'invalid-config'
  | 'not-found'
  | 'not-created'
  | 'bad-state'
  | 'conflict'
  | 'busy'
  | 'host'
  | 'internal';

/**
 * An operating error, expected and handled; a broken invariant throws AssertionError and ends the
 * process. The message says what we were doing; the `cause` chain says why it failed.
 */
export class VmmError extends Error {
  override readonly name = 'VmmError';
  readonly kind: ErrorKind;
  constructor(kind: ErrorKind, message: string, cause?: unknown) {
    super(message, { cause });
    this.kind = kind;
  }
}

/** Outermost first, as the HTTP API reports it. */
export function errorChain(error: unknown): string[] {
  const chain: string[] = [];
  for (let e = error; e instanceof Error; e = e.cause) chain.push(e.message);
  return chain;
}

/** For the `default` of a switch over a union: the compiler proves it is never reached. */
export function unreachable(value: never): never {
  throw new Error(`Unreachable: ${String(value)}`);
}
