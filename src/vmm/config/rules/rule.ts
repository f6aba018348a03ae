/** What the rules over a config are made of. */

import type { VmConfig } from '../../config.ts';
import type { HostFacts } from '../../host.ts';

export interface Fault {
  /** What is wrong, in the words that clients know. */
  text: string;
  /** Which field has which value, and what to do. */
  remedy: string;
  kind?: 'conflict';
}

/** One demand on a config whose parts are each well-formed; undefined if it is met. */
export type Rule = (config: VmConfig, host: HostFacts) => Fault | undefined;

type Lists = {
  [F in keyof VmConfig as NonNullable<VmConfig[F]> extends readonly unknown[]
    ? F
    : never]-?: NonNullable<VmConfig[F]> extends readonly (infer E)[] ? E : never;
};

/** The same demand on every element of a list; `at` is the element's name, such as `disks[0]`. */
export const each =
  <F extends keyof Lists & keyof VmConfig>(
    field: F,
    rule: (element: Lists[F], at: string, config: VmConfig) => Fault | undefined,
  ): Rule =>
  (config) => {
    const elements = (config[field] ?? []) as unknown as readonly Lists[F][];
    for (const [i, element] of elements.entries()) {
      const fault = rule(element, `${field}[${i}]`, config);
      if (fault) return fault;
    }
    return undefined;
  };

export const isPowerOfTwo = (value: number): boolean =>
  value > 0 && Number.isInteger(Math.log2(value));
