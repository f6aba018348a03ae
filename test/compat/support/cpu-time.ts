import { readdirSync, readFileSync } from 'node:fs';

/** Clock ticks that the threads of a process have used, but for its vCPUs. proc(5). */
function ticks(pid: number): number {
  const tasks = readdirSync(`/proc/${pid}/task`).map((task) =>
    readFileSync(`/proc/${pid}/task/${task}/stat`, 'utf8'),
  );
  return tasks
    .filter((stat) => !stat.includes('(vcpu'))
    .map((stat) => stat.slice(stat.lastIndexOf(')')).split(' '))
    .reduce((sum, fields) => sum + Number(fields[12]) + Number(fields[13]), 0);
}

/** Those of the second that follows, once start-up has settled. */
export async function ticksOfASecond(pid: number): Promise<number> {
  const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));
  await sleep(1500);
  const before = ticks(pid);
  await sleep(1000);
  return ticks(pid) - before;
}
