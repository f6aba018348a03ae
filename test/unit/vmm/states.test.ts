/** The states of a VM, written out once more: what each verb leads to, or how it is refused. */
import { expect, test } from 'vitest';
import { errorChain, VmmError } from '../../../src/errors.ts';
import { nextState, type State, type Verb } from '../../../src/vmm/states.ts';

const VERBS = [
  ...['create', 'boot', 'pause', 'resume', 'snapshot', 'shutdown', 'reboot', 'delete'],
  ...['powerButton', 'nmi', 'counters'],
  ...['resize', 'resizeZone', 'resizeDisk', 'addDevice', 'removeDevice'],
] as Verb[];

const CREATED = 'bad-state: VM is already created';
const NOT_RUNNING = 'bad-state: VM is not running';
const NO_VM = 'not-created: VM is not created, VmNotCreated';
const wrong = (verb: string, state: State) =>
  `bad-state: Cannot ${verb} VM, Failed to ${verb} migratable component, ` +
  `Invalid transition: InvalidStateTransition(${state}, ${state})`;
const TOO_EARLY =
  'bad-state: Cannot snapshot VM, Failed to snapshot migratable component, ' +
  'Trying to snapshot while VM is running';

/** One column a verb, in the order of `VERBS`. */
const TABLE: Record<State, readonly string[]> = {
  None: [
    ...['Created', NO_VM, NO_VM, NO_VM, NO_VM, NO_VM, NO_VM, 'None', NO_VM, NO_VM, NO_VM],
    ...[NO_VM, NO_VM, NO_VM, NO_VM, NO_VM],
  ],
  Created: [
    ...[CREATED, 'Running', NOT_RUNNING, 'not-found: VM is not running', NOT_RUNNING],
    ...[NOT_RUNNING, NOT_RUNNING, 'None', NOT_RUNNING, NOT_RUNNING, NOT_RUNNING],
    ...['Created', 'Created', NOT_RUNNING, 'Created', 'Created'],
  ],
  Running: [
    ...[CREATED, CREATED, 'Paused', wrong('resume', 'Running'), TOO_EARLY, 'Created', 'Running'],
    ...['None', 'Running', 'Running', 'Running'],
    ...['Running', 'Running', 'Running', 'Running', 'Running'],
  ],
  Paused: [
    ...[CREATED, CREATED, wrong('pause', 'Paused'), 'Running', 'Paused', 'Created', 'Running'],
    ...['None', 'Paused', 'Paused', 'Paused'],
    ...['Paused', 'Paused', 'Paused', 'Paused', 'Paused'],
  ],
};

function outcome(state: State, verb: Verb): string {
  try {
    return nextState(state, verb);
  } catch (error) {
    if (!(error instanceof VmmError)) throw error;
    return `${error.kind}: ${errorChain(error).join(', ')}`;
  }
}

const cells = (Object.keys(TABLE) as State[]).flatMap((state) =>
  VERBS.map((verb, i) => ({ state, verb, expected: TABLE[state][i] })),
);

test.each(cells)('$state, $verb: $expected', ({ state, verb, expected }) => {
  expect(outcome(state, verb)).toBe(expected);
});
