import { readdirSync, readlinkSync } from 'node:fs';

/** The files below `folder` that this process has open, whichever thread opened them. */
export const openFiles = (folder: string): string[] =>
  readdirSync('/proc/self/fd').flatMap((fd) => {
    try {
      const path = readlinkSync(`/proc/self/fd/${fd}`);
      return path.startsWith(`${folder}/`) ? [path] : [];
    } catch {
      return []; // closed since, by another thread
    }
  });
