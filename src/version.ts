/** The level of the original that clients are told, in the one form that all of them can parse. */
export const COMPATIBLE_VERSION = 'v49.0.0';

/** Our own. */
export const BUILD_VERSION = 'v0.1.0';
