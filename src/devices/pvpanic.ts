/** pvpanic: a PCI device with one byte, by which a guest's kernel says that it panicked. */
import { bool } from '../schema.ts';

export const PvpanicConfig = bool(false);
