/** Boots Debian's cloud kernel with a busybox initramfs under the product, in this terminal. */
import { guestImages } from '../guest-images/images.ts';
import { product } from '../test/e2e/support/vmm.ts';
import type { HostProcess } from '../test/host/host.ts';
import { openHost } from '../test/host/open-host.ts';

/** What the guest's init prints when it takes commands; it gives no prompt unasked. */
const READY = 'guest: ready';
const PROMPT = 'exec sh -i\n';

async function demo(): Promise<number> {
  const images = await guestImages();
  const host = await openHost();
  try {
    const argv = await product.argv(host, {
      cpus: 2,
      memory: '512M',
      kernel: await host.stage(images.vmlinux),
      initramfs: await host.stage(images.initramfs),
      cmdline: 'console=ttyS0 quiet panic=-1',
      disks: [],
      nics: [],
      terminal: 'serial-tty',
      terminalPath: '',
      apiSocket: '/tmp/cloud-hypervisor-demo.sock',
      args: [],
    });
    console.log(`\n$ ${argv.map(quoted).join(' ')}`);
    console.log('Type poweroff to end it.\n');
    return await attach(await host.spawn(argv));
  } finally {
    await host.close();
  }
}

const quoted = (word: string): string => (/[^\w./=:-]/.test(word) ? `'${word}'` : word);

/** Gives this terminal to the VMM until that ends. */
async function attach(vmm: HostProcess): Promise<number> {
  let seen = '';
  vmm.stdout.on('data', function greet(chunk: Buffer) {
    seen += chunk;
    if (!seen.includes(READY)) return;
    vmm.stdout.off('data', greet);
    vmm.stdin.write(PROMPT);
  });
  vmm.stdout.pipe(process.stdout);
  vmm.stderr.pipe(process.stderr);
  if (process.stdin.isTTY) process.stdin.setRawMode(true);
  process.stdin.pipe(vmm.stdin);
  const { code } = await vmm.exited;
  if (process.stdin.isTTY) process.stdin.setRawMode(false);
  process.stdin.unpipe();
  process.stdin.pause();
  return code;
}

demo().then(
  (code) => {
    console.log(`\nThe VMM ended with ${code}.`);
    process.exitCode = code;
  },
  (error: unknown) => {
    console.error(`The demo failed: ${error instanceof Error ? error.message : error}`);
    process.exitCode = 1;
  },
);
