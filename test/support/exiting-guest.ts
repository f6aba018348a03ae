/**
 * A process that ends in the middle of a storm of exits, as a crash of ours would end it: from a
 * timer, or with the argument `handler`, from the very exit that is being answered.
 */
import * as code from './machine-code.ts';
import { AP_CODE_GPA, MicroGuest, START_APS } from './micro-guest.ts';

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
const storm16 = [0xba, PORT & 0xff, PORT >> 8, 0xee, 0xeb, 0xfd]; // mov dx, PORT; out dx, al; jmp
guest.memory.write(AP_CODE_GPA, Uint8Array.from(storm16));
await guest.start([...START_APS, ...code.forever(code.out(PORT))]);
