/** What /proc tells of a thread, proc(5). */

/** Context switches, of its own will or not, as its `status` or several of them have it. */
export function switchesIn(status: string): number {
  const counts = [...status.matchAll(/ctxt_switches:\t(\d+)/g)];
  return counts.reduce((sum, [, count]) => sum + Number(count), 0);
}

/** Clock ticks of the CPU, user and system, as its `stat` has it. */
export function ticksIn(stat: string): number {
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return Number(fields[11]) + Number(fields[12]);
}
