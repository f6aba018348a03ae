/** What the threads of a process do: evidence of why a guest does not answer. */
import type { KvmHost } from '../../host/host.ts';

const TIMEOUT_MS = 15_000;

/** Shell: a line a thread, with its state, where it waits, and its times of the CPU in ticks. */
const threads = (pid: number) =>
  `for t in /proc/${pid}/task/*; do ` +
  'read -r comm < $t/comm; read -r syscall < $t/syscall; ' +
  'set -- $(sed "s/.*) //" $t/stat); state=$1; shift 11; ' +
  'printf "%-16s %s user %-6s system %-6s wchan %s syscall %s\\n" ' +
  '"$comm" $state $1 $2 "$(cat $t/wchan)" "$syscall"; done; ';

/** Two looks, a second apart. Empty if the process is gone, or the host. */
export async function portrait(host: KvmHost, pid: number): Promise<string> {
  const twice = `${threads(pid)} sleep 1; echo; ${threads(pid)} cat /proc/interrupts`;
  const options = { timeoutMs: TIMEOUT_MS };
  return host.exec(`(${twice}) 2>/dev/null`, options).then(
    ({ stdout }) => stdout,
    () => '',
  );
}
