/** `npm run format` for C and C++: writes what `npm run check -- clang-format` asks for. */
import { spawnSync } from 'node:child_process';
import { clangFormat } from './check/cpp.ts';

const [file = '', ...args] = clangFormat('-i');
process.exitCode = spawnSync(file, args, { stdio: 'inherit' }).status ?? 1;
