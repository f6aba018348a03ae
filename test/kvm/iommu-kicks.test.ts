/** A vCPU that kicks the queue of a virtio-iommu, and serves it there and then. */
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { type Chain, native } from '../../src/native.ts';
import { attach, map, pages } from '../support/iommu-requests.ts';
import { HLT, movEax, store } from '../support/machine-code.ts';
import { DONE, MicroGuest, MMIO_GPA, until } from '../support/micro-guest.ts';
import { RingDriver } from '../support/ring-driver.ts';

const REQUEST_GPA = 0x2_0000;
const ANSWER_GPA = 0x2_1000;
const OK = 0;
const INVALID = 4;
/** What is in the guest's RAM before there is an answer. */
const NONE = 0xee;

const LIMITS = {
  ...{ last: 2n ** 64n - 1n, mappingsMax: 100 },
  ...{ reservedFirst: 0xfee0_0000n, reservedLast: 0xfeef_ffffn },
};

/** Domain 1 is there. Requests are available from head 0 on, two descriptors each. */
class Machine implements AsyncDisposable {
  readonly guest = new MicroGuest();
  readonly driver = new RingDriver(this.guest.memory);
  readonly domains = new native.IoDomains(LIMITS);
  /** What came to JavaScript. */
  readonly chains: Chain[] = [];
  readonly #queue = this.driver.device();

  constructor(requests: readonly Uint8Array[]) {
    this.domains.put(1, new native.IoDomain(this.domains));
    this.guest.vm.claimKick(MMIO_GPA, this.driver.kick, this.domains);
    requests.forEach((request, n) => {
      const [gpa, answerGpa] = [REQUEST_GPA + 0x100 * n, ANSWER_GPA + 4 * n];
      this.guest.memory.write(gpa, request);
      this.guest.memory.write(answerGpa, Uint8Array.of(NONE));
      this.driver.describe(2 * n, [
        { gpa, sizeBytes: request.length },
        { gpa: answerGpa, sizeBytes: 4, write: true },
      ]);
      this.guest.memory.write(this.driver.availGpa + 4 + 2 * n, Uint8Array.of(2 * n, 0));
    });
  }

  async serve({ isShared = true } = {}): Promise<void> {
    this.#queue.onKick(() => {
      for (let chain = this.#queue.take(); chain; chain = this.#queue.take())
        this.chains.push(chain);
    });
    if (isShared) this.#queue.shareKicks(this.domains);
    await sleep(5); // the handler has looked, and found nothing
  }

  /** The guest offers so many requests and kicks. */
  async kick(count: number): Promise<void> {
    const offer = [...movEax(count), ...store(this.driver.availGpa + 2, 2)];
    await this.guest.start([...offer, ...store(MMIO_GPA, 2), ...DONE, ...HLT]);
    await until(() => this.guest.doneCount === 1);
  }

  answers(count: number): number[] {
    return Array.from({ length: count }, (_, n) => this.guest.peek(ANSWER_GPA + 4 * n) & 0xff);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#queue.close();
    this.driver.close();
    await this.guest[Symbol.asyncDispose]();
  }
}

test('mappings are made before the write that kicks is over, and JavaScript hears nothing', async () => {
  await using machine = new Machine([map(1, pages(5)), map(1, pages(5))]);
  await machine.serve();
  await machine.kick(2);
  expect(machine.answers(2)).toEqual([OK, INVALID]);
  expect(machine.chains).toEqual([]);
});

test('a request for JavaScript comes there, and what is behind it, too', async () => {
  await using machine = new Machine([map(1, pages(5)), attach(1, 8), map(1, pages(6))]);
  await machine.serve();
  await machine.kick(3);
  await until(() => machine.chains.length > 0);
  expect(machine.chains.map(({ readableBytes }) => readableBytes)).toEqual([20, 36]);
  expect(machine.answers(3)).toEqual([OK, NONE, NONE]);
});

test('a queue that shares its kicks with nobody is kicked all the same', async () => {
  await using machine = new Machine([map(1, pages(5))]);
  await machine.serve({ isShared: false });
  await machine.kick(1);
  await until(() => machine.chains.length > 0);
  expect(machine.answers(1)).toEqual([NONE]);
});

test('a register that answers no more can be claimed anew', async () => {
  await using machine = new Machine([map(1, pages(5))]);
  const { guest, driver, domains } = machine;
  expect(() => guest.vm.claimKick(MMIO_GPA, driver.kick, domains)).toThrow('EEXIST');
  guest.vm.releaseKick(MMIO_GPA);
  guest.vm.claimKick(MMIO_GPA, driver.kick, domains);
  await machine.serve();
  await machine.kick(1);
  expect(machine.answers(1)).toEqual([OK]);
});
