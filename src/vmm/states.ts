/**
 * The states of a VM and what each verb does in each: this table is the code, and the tests iterate
 * it. There is no visible Shutdown state: after `shutdown` the VM is Created and can boot again.
 */
import { type ErrorKind, VmmError } from '../errors.ts';

/** `None`: there is no VM. `Created`: there is its config, and nothing else. */
export type State = 'None' | 'Created' | 'Running' | 'Paused';

export type Verb =
  | 'create'
  | 'boot'
  | 'pause'
  | 'resume'
  | 'snapshot'
  | 'shutdown'
  | 'reboot'
  | 'delete'
  | 'powerButton'
  | 'nmi'
  | 'counters'
  | 'resize'
  | 'resizeZone'
  | 'resizeDisk'
  | 'addDevice'
  | 'removeDevice';

interface Refusal {
  kind: ErrorKind;
  /** Outermost first, the texts that the API's clients know. */
  texts: readonly string[];
}

const refuse = (kind: ErrorKind, ...texts: string[]): Refusal => ({ kind, texts });

/** Clients look for one of the two texts in the answer. */
const NOT_CREATED = refuse('not-created', 'VM is not created', 'VmNotCreated');
const ALREADY_CREATED = refuse('bad-state', 'VM is already created');
const NOT_RUNNING = refuse('bad-state', 'VM is not running');
/** The API document has 404 for this one. */
const NOT_BOOTED = refuse('not-found', 'VM is not running');

const badTransition = (verb: string, state: State): Refusal =>
  refuse(
    'bad-state',
    `Cannot ${verb} VM`,
    `Failed to ${verb} migratable component`,
    `Invalid transition: InvalidStateTransition(${state}, ${state})`,
  );

const SNAPSHOT_RUNNING = refuse(
  'bad-state',
  'Cannot snapshot VM',
  'Failed to snapshot migratable component',
  'Trying to snapshot while VM is running',
);

const NEXT: Record<State, Record<Verb, State | Refusal>> = {
  None: {
    create: 'Created',
    boot: NOT_CREATED,
    pause: NOT_CREATED,
    resume: NOT_CREATED,
    snapshot: NOT_CREATED,
    shutdown: NOT_CREATED,
    reboot: NOT_CREATED,
    delete: 'None',
    powerButton: NOT_CREATED,
    nmi: NOT_CREATED,
    counters: NOT_CREATED,
    resize: NOT_CREATED,
    resizeZone: NOT_CREATED,
    resizeDisk: NOT_CREATED,
    addDevice: NOT_CREATED,
    removeDevice: NOT_CREATED,
  },
  Created: {
    create: ALREADY_CREATED,
    boot: 'Running',
    pause: NOT_RUNNING,
    resume: NOT_BOOTED,
    snapshot: NOT_RUNNING,
    shutdown: NOT_RUNNING,
    reboot: NOT_RUNNING,
    delete: 'None',
    powerButton: NOT_RUNNING,
    nmi: NOT_RUNNING,
    counters: NOT_RUNNING,
    resize: 'Created',
    resizeZone: 'Created',
    resizeDisk: NOT_RUNNING,
    addDevice: 'Created',
    removeDevice: 'Created',
  },
  Running: {
    create: ALREADY_CREATED,
    boot: ALREADY_CREATED,
    pause: 'Paused',
    resume: badTransition('resume', 'Running'),
    snapshot: SNAPSHOT_RUNNING,
    shutdown: 'Created',
    reboot: 'Running',
    delete: 'None',
    powerButton: 'Running',
    nmi: 'Running',
    counters: 'Running',
    resize: 'Running',
    resizeZone: 'Running',
    resizeDisk: 'Running',
    addDevice: 'Running',
    removeDevice: 'Running',
  },
  Paused: {
    create: ALREADY_CREATED,
    boot: ALREADY_CREATED,
    pause: badTransition('pause', 'Paused'),
    resume: 'Running',
    snapshot: 'Paused',
    shutdown: 'Created',
    reboot: 'Running',
    delete: 'None',
    powerButton: 'Paused',
    nmi: 'Paused',
    counters: 'Paused',
    resize: 'Paused',
    resizeZone: 'Paused',
    resizeDisk: 'Paused',
    addDevice: 'Paused',
    removeDevice: 'Paused',
  },
};

/**
 * The state that `verb` leads to if all goes well.
 * @throws VmmError 'not-created' without a VM, 'bad-state' or 'not-found' in a wrong state.
 */
export function nextState(state: State, verb: Verb): State {
  const next = NEXT[state][verb];
  if (typeof next === 'string') return next;
  throw chained(next.kind, next.texts);
}

/** For what needs a VM and is no verb. */
export const notCreated = (): VmmError => chained(NOT_CREATED.kind, NOT_CREATED.texts);

/** An error whose chain of messages is `texts`. */
function chained(kind: ErrorKind, [text = '', ...causes]: readonly string[]): VmmError {
  return new VmmError(kind, text, causes.length > 0 ? chained(kind, causes) : undefined);
}
