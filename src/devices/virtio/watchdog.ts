/**
 * virtio-watchdog: resets a guest that stops stroking it.
 *
 * Data plane: this file. One request every few seconds.
 */
import { bool } from '../../schema.ts';

export const WatchdogConfig = bool(false);
