import { EventEmitter } from 'node:events';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { Keyboard, type Typed } from '../../../src/vmm/keyboard.ts';

/** What process.stdin is to a Terminal. */
class FakeStdin extends EventEmitter {
  isTTY = true;
  isRaw = false;
  isPaused = true;
  setRawMode(raw: boolean): void {
    this.isRaw = raw;
  }
  pause(): void {
    this.isPaused = true;
  }
  resume(): void {
    this.isPaused = false;
  }
  type(text: string): void {
    this.emit('data', Buffer.from(text, 'latin1'));
  }
}

let stdin: FakeStdin;

beforeEach(() => {
  stdin = new FakeStdin();
  vi.spyOn(process, 'stdin', 'get').mockReturnValue(stdin as never);
});

afterEach(() => {
  vi.restoreAllMocks();
});

/** A port with room for `room` bytes. */
class Port {
  readonly #typed: Typed;
  room: number;
  text = '';

  constructor(keyboard: Keyboard, room = Number.POSITIVE_INFINITY) {
    this.room = room;
    this.#typed = keyboard.listen(() => this.feed());
  }

  feed(): void {
    const taken = this.#typed.peek().subarray(0, this.room);
    this.text += Buffer.from(taken).toString('latin1');
    this.room -= taken.length;
    if (taken.length > 0) this.#typed.drop(taken.length);
  }

  makeRoom(room: number): void {
    this.room += room;
    this.feed();
  }
}

test('every port gets all that is typed', () => {
  const keyboard = new Keyboard();
  const ports = [new Port(keyboard), new Port(keyboard)];
  keyboard.open();

  stdin.type('one ');
  stdin.type('two');

  expect(ports.map(({ text }) => text)).toEqual(['one two', 'one two']);
});

test('one port alone loses nothing, and while it is behind nothing more is read', () => {
  const keyboard = new Keyboard();
  const port = new Port(keyboard, 2);
  keyboard.open();

  stdin.type('one ');
  expect(stdin.isPaused).toBe(false);
  stdin.type('two ');
  expect(stdin.isPaused).toBe(true);
  port.makeRoom(4);
  expect(stdin.isPaused).toBe(false);
  stdin.type('three');
  port.makeRoom(100);

  expect(port.text).toBe('one two three');
  expect(stdin.isPaused).toBe(false);
});

test('a port that is behind keeps no other waiting, and up to 4 KiB wait for it', () => {
  const keyboard = new Keyboard();
  const [quick, slow] = [new Port(keyboard), new Port(keyboard, 0)];
  keyboard.open();
  const chunk = 'x'.repeat(1000);

  for (let i = 0; i < 100; i++) stdin.type(chunk);

  expect(stdin.isPaused).toBe(false);
  expect(quick.text).toHaveLength(100_000);
  slow.makeRoom(1_000_000);
  expect(slow.text).toHaveLength(4000);
  stdin.type('y');
  expect(slow.text.at(-1)).toBe('y');
});

test('the terminal is raw, and watched, from open to close', () => {
  const keyboard = new Keyboard();
  expect([stdin.isRaw, stdin.isPaused]).toEqual([false, true]);
  const port = new Port(keyboard, 0);

  keyboard.open();
  expect([stdin.isRaw, stdin.isPaused]).toEqual([true, false]);
  stdin.type('a');
  stdin.type('b');
  keyboard.close();
  port.makeRoom(10);

  expect([stdin.isRaw, stdin.isPaused]).toEqual([false, true]);
  expect(stdin.listenerCount('data')).toBe(0);
});
