/**
 * Every verb in every state, over the API of a real process and whatever the guest does: what it
 * answers, in which words, and where it leads.
 */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { guestConfig, type Habit, QUIET } from './support/guests.ts';
import { VmmProcess } from './support/vmm-process.ts';

type State = 'None' | 'Created' | 'Running' | 'Paused';

const STATES: readonly State[] = ['None', 'Created', 'Running', 'Paused'];

/** The way from no VM to each state. */
const PATH: Record<State, readonly string[]> = {
  None: [],
  Created: ['vm.create'],
  Running: ['vm.create', 'vm.boot'],
  Paused: ['vm.create', 'vm.boot', 'vm.pause'],
};

/** What is done, a state it leads to; or what is refused, a status and the texts. */
type Outcome = State | [status: number, ...texts: string[]];

const NO_VM: Outcome = [404, 'VM is not created', 'VmNotCreated'];
const TWICE: Outcome = [405, 'VM is already created'];
const OFF: Outcome = [405, 'VM is not running'];

const wrong = (verb: string, state: State): Outcome => [
  405,
  `Cannot ${verb} VM`,
  `Failed to ${verb} migratable component`,
  `Invalid transition: InvalidStateTransition(${state}, ${state})`,
];

interface Row {
  verb: string;
  method?: 'GET';
  /** Of a success. */
  status?: number;
  /** The outermost text of a refusal. */
  failure: string;
  /** In the order of `STATES`. */
  outcomes: readonly [Outcome, Outcome, Outcome, Outcome];
}

const ROWS: readonly Row[] = [
  {
    verb: 'vm.create',
    failure: 'The VM could not be created',
    outcomes: ['Created', TWICE, TWICE, TWICE],
  },
  {
    verb: 'vm.boot',
    failure: 'The VM could not boot',
    outcomes: [NO_VM, 'Running', TWICE, TWICE],
  },
  {
    verb: 'vm.pause',
    failure: 'The VM could not be paused',
    outcomes: [NO_VM, OFF, 'Paused', wrong('pause', 'Paused')],
  },
  {
    verb: 'vm.resume',
    failure: 'The VM could not resume',
    outcomes: [NO_VM, [404, 'VM is not running'], wrong('resume', 'Running'), 'Running'],
  },
  {
    verb: 'vm.shutdown',
    failure: 'The VM could not shutdown',
    outcomes: [NO_VM, OFF, 'Created', 'Created'],
  },
  {
    verb: 'vm.reboot',
    failure: 'The VM could not reboot',
    outcomes: [NO_VM, OFF, 'Running', 'Running'],
  },
  { verb: 'vm.delete', failure: '', outcomes: ['None', 'None', 'None', 'None'] },
  {
    verb: 'vm.power-button',
    failure: 'Error triggering power button',
    outcomes: [NO_VM, OFF, 'Running', 'Paused'],
  },
  {
    verb: 'vm.nmi',
    failure: 'Error triggering NMI',
    outcomes: [NO_VM, OFF, 'Running', 'Paused'],
  },
  {
    verb: 'vm.counters',
    method: 'GET',
    status: 200,
    failure: 'The VM info is not available',
    outcomes: [NO_VM, OFF, 'Running', 'Paused'],
  },
  {
    verb: 'vm.info',
    method: 'GET',
    status: 200,
    failure: 'The VM info is not available',
    outcomes: [NO_VM, 'Created', 'Running', 'Paused'],
  },
];

let vmm: VmmProcess;

beforeAll(async () => {
  vmm = await VmmProcess.start();
});

afterAll(() => vmm[Symbol.asyncDispose]());

const ask = ({ verb, method }: Pick<Row, 'verb' | 'method'>, habit: Habit) => {
  if (method === 'GET') return vmm.get(verb);
  return vmm.put(verb, verb === 'vm.create' ? guestConfig(vmm.folder, habit) : undefined);
};

async function bringTo(state: State, habit: Habit): Promise<void> {
  expect(await ask({ verb: 'vm.delete' }, habit)).toMatchObject({ status: 204 });
  for (const verb of PATH[state]) expect(await ask({ verb }, habit)).toMatchObject({ status: 204 });
}

const GUESTS: readonly Habit[] = [
  QUIET,
  'a guest in a tight loop with interrupts off',
  'a guest that halts at once, with interrupts off',
  'a guest in a storm of exits to the clock',
];

const wait = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

const told = (outcome: Outcome) =>
  typeof outcome === 'string' ? outcome : outcome.slice(0, 2).join(': ');

describe.each(GUESTS)('%s', (habit) => {
  const cells = ROWS.flatMap((row) =>
    STATES.map((state, i) => ({ ...row, state, outcome: row.outcomes[i] as Outcome })),
  ).map((cell) => ({ ...cell, told: told(cell.outcome) }));

  test.each(cells)('$state, $verb: $told', async (cell) => {
    const { state, outcome, failure, status = 204 } = cell;
    await bringTo(state, habit);

    const answer = await ask(cell, habit);

    if (typeof outcome === 'string') {
      expect(answer.status).toBe(status);
      expect(await vmm.state()).toBe(outcome);
    } else {
      const [refused, ...texts] = outcome;
      expect(answer.status).toBe(refused);
      expect(answer.body).toEqual(['Error from API', failure, ...texts]);
      expect(await vmm.state()).toBe(state);
    }
  });
});

describe('a guest that resets itself at once, every time', () => {
  const habit: Habit = 'a guest that resets itself at once, every time';

  test.each(ROWS)('$verb is answered in the middle of a reset', async (row) => {
    await bringTo('Running', habit);

    const answer = await ask(row, habit);

    // Whether the reset comes first is the guest's choice.
    const [, , running] = row.outcomes;
    expect(answer.status).toBe(
      typeof running === 'string' ? (row.status ?? 204) : (running[0] as number),
    );
  });

  test('it can be shut down, and stays so', async () => {
    await bringTo('Running', habit);

    await vmm.put('vm.shutdown');

    await wait(100);
    expect(await vmm.state()).toBe('Created');
  });

  test('it can be paused at any moment, and stays so', async () => {
    const states: string[] = [];
    for (let round = 0; round < 60; round++) {
      await bringTo('Running', habit);
      await wait(round % 6);
      await vmm.put('vm.pause');
      await wait(15); // a reset would show by now
      states.push(await vmm.state());
    }

    expect(new Set(states)).toEqual(new Set(['Paused']));
    expect(await vmm.put('vm.resume')).toMatchObject({ status: 204 });
  });

  test('it runs, for all that vm.info tells, while it is reset', async () => {
    await bringTo('Running', habit);

    const states = new Set<string>();
    const client = async () => {
      for (let i = 0; i < 150; i++) states.add(await vmm.state());
    };
    await Promise.all([client(), client(), client(), client(), client(), client()]);

    expect(states).toEqual(new Set(['Running']));
  });
});

test.each<Habit>([...GUESTS, 'a guest that resets itself at once, every time'])(
  'vmm.shutdown ends the process, with %s, running or paused',
  async (habit) => {
    for (const last of ['vm.boot', 'vm.pause']) {
      await using own = await VmmProcess.start();
      await own.put('vm.create', guestConfig(own.folder, habit));
      await own.put('vm.boot');
      if (last === 'vm.pause') await own.put(last);

      expect(await own.put('vmm.shutdown')).toMatchObject({ status: 200 });

      expect(await own.exitCode()).toBe(0);
    }
  },
);

test('one client that asks for everything at once gets every answer, in order', async () => {
  await bringTo('None', QUIET);
  const verbs = ['vm.boot', 'vm.pause', 'vm.resume', 'vm.reboot', 'vm.shutdown', 'vm.delete'];
  const config = JSON.stringify(guestConfig(vmm.folder));

  const { text } = await vmm.raw(
    [
      `PUT /api/v1/vm.create HTTP/1.1\r\nContent-Length: ${config.length}\r\n\r\n${config}`,
      ...verbs.map((verb) => `PUT /api/v1/${verb} HTTP/1.1\r\n\r\n`),
    ].join(''),
  );

  expect(text.match(/HTTP\/1\.1 \d{3}/g)).toEqual(Array(7).fill('HTTP/1.1 204'));
});

test('ten clients that ask at the same time are each answered', async () => {
  await bringTo('Running', 'a guest in a storm of exits to the clock');
  const verbs = ['vm.pause', 'vm.resume', 'vm.reboot', 'vm.nmi', 'vm.power-button'];

  const answers = await Promise.all([...verbs, ...verbs].map((verb) => vmm.put(verb)));

  for (const { status } of answers) expect([204, 405]).toContain(status);
});
