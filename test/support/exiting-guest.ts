/**
 * A process that ends in the middle of a storm of exits, as a crash of ours would end it: from a
 * timer, or with the argument `handler`, from the very exit that is being answered.
 */
import { MicroGuest } from './micro-guest.ts';

const PORT = 0x500;
const EXITS = 200;
const inHandler = process.argv[2] === 'handler';

const guest = new MicroGuest({ vcpus: 4 });
let exits = 0;
const write = () => {
  if (++exits !== EXITS) return;
  if (inHandler) process.exit(7);
  setTimeout(() => process.exit(7), 1);
};
guest.vm.claim({ space: 'port', base: PORT, sizeBytes: 1 }, { read: () => 0, write });
await guest.startStorm(PORT);
