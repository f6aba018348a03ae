/**
 * A TPM 2.0 behind the CRB interface at 0xfed40000, emulated by swtpm.
 *
 * Data plane: swtpm, over its control socket.
 */
import type { Static } from '@sinclair/typebox';
import { object, text } from '../schema.ts';

export const TpmConfig = object({ socket: text() });
export type TpmConfig = Static<typeof TpmConfig>;
