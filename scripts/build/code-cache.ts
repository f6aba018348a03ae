/** `dist/vmm.cache`: V8's code for what a start and the first requests run. */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { microGuest } from '../../bench/support/micro-guest.ts';

/**
 * Runs in a node of its own, started as the product is: lives through what a VMM does first, then
 * has V8 write down the code. It makes its own requests over a socket. Without /dev/kvm the VM does
 * not boot, and that part of the code is compiled when it is needed.
 */
const REHEARSAL = `
const { readFileSync, writeFileSync } = require('node:fs');
const { createRequire } = require('node:module');
const { connect } = require('node:net');
const { Script } = require('node:vm');
const [, , bundle, cache, socket, kernel] = process.argv;
// V8 would write down the flags that are in force, and refuse the code where they are not yet.
require('node:v8').setFlagsFromString = () => {};

const script = new Script(readFileSync(bundle, 'latin1'), { filename: bundle });
process.argv = [process.argv[0], bundle, '--api-socket', socket];
const near = createRequire(bundle);
script.runInThisContext()(near, bundle, () => near('./cloud_hypervisor.node'));

const requests = [
  'GET /api/v1/vmm.ping', 'PUT /api/v1/vm.create', 'GET /api/v1/vm.info', 'PUT /api/v1/vm.boot',
  'GET /api/v1/vm.info', 'PUT /api/v1/vm.pause', 'PUT /api/v1/vm.resume', 'PUT /api/v1/vm.shutdown',
  'PUT /api/v1/vm.delete',
];
const config = JSON.stringify({
  payload: { kernel }, memory: { size: 64 << 20 }, serial: { mode: 'Null' }, console: { mode: 'Off' },
});
function open(tries) {
  const client = connect(socket, next);
  client.on('error', () => {
    if (tries === 0) process.exit(1);
    setTimeout(open, 20, tries - 1);
  });
  client.on('data', next);
  function next() {
    const request = requests.shift();
    if (!request) return done();
    const body = request.endsWith('create') ? config : '';
    client.write(request + ' HTTP/1.1\\r\\nContent-Length: ' + body.length + '\\r\\n\\r\\n' + body);
  }
}
function done() {
  writeFileSync(cache, script.createCachedData());
  process.exit(0);
}
open(250);
`;

export function writeCodeCache(dist: string): void {
  const directory = mkdtempSync(join(tmpdir(), 'rehearsal-'));
  try {
    const kernel = join(directory, 'kernel');
    const rehearsal = join(directory, 'rehearsal.cjs');
    writeFileSync(kernel, microGuest());
    writeFileSync(rehearsal, REHEARSAL);
    const files = [
      join(dist, 'vmm.cjs'),
      join(dist, 'vmm.cache'),
      join(directory, 'socket'),
      kernel,
    ];
    execFileSync(process.execPath, ['--v8-pool-size=1', rehearsal, ...files], {
      stdio: ['ignore', 'ignore', 'inherit'],
      env: { PATH: process.env['PATH'] },
      timeout: 30_000,
    });
  } finally {
    rmSync(directory, { recursive: true });
  }
}
