/** Where PCI devices may sit. */
import type { VmConfig } from '../../config.ts';
import { pciDevices } from '../../devices.ts';
import type { Rule } from './rule.ts';

const SEGMENTS_MAX = 96;
const SLOTS = 32;

const segmentCount: Rule = ({ platform: { num_pci_segments = 1 } = {} }) => {
  if (num_pci_segments > 0 && num_pci_segments <= SEGMENTS_MAX) return undefined;
  return {
    text: `Number of PCI segments (${num_pci_segments}) not in range of 1 to ${SEGMENTS_MAX}`,
    remedy: `platform.num_pci_segments is ${num_pci_segments}: give 1 to ${SEGMENTS_MAX}`,
  };
};

interface Place {
  at: string;
  segment: number;
  slot: number | undefined;
}

/** Every device on PCI, and where it says it sits. */
function places(config: VmConfig): Place[] {
  return pciDevices(config).map(({ at, config: own }) => {
    const { pci_segment = 0, pci_device_id } = own as {
      pci_segment?: number;
      pci_device_id?: number;
    };
    return { at, segment: pci_segment, slot: pci_device_id };
  });
}

const segmentsExist: Rule = (config) => {
  const count = config.platform?.num_pci_segments ?? 1;
  const lists = [
    ...places(config).map(({ at, segment }) => [`${at}.pci_segment`, segment] as const),
    ...(config.pci_segments ?? []).map(
      ({ pci_segment }, i) => [`pci_segments[${i}].pci_segment`, pci_segment] as const,
    ),
    ...(config.platform?.iommu_segments ?? []).map(
      (segment) => ['platform.iommu_segments', segment] as const,
    ),
  ];
  const wrong = lists.find(([, segment]) => segment >= count);
  return (
    wrong && {
      text: `Invalid PCI segment id: ${wrong[1]}`,
      remedy: `${wrong[0]} is ${wrong[1]}: give less than platform.num_pci_segments, ${count}`,
    }
  );
};

const slotsExist: Rule = (config) => {
  const wrong = places(config).find(({ slot = 1 }) => slot === 0 || slot >= SLOTS);
  if (wrong === undefined) return undefined;
  const reason = wrong.slot === 0 ? 'reserved' : `out of the supported range of 0..${SLOTS}`;
  return {
    text: `Given PCI device ID (${wrong.slot}) is ${reason}`,
    remedy: `${wrong.at}.pci_device_id is ${wrong.slot}: give 1 to ${SLOTS - 1}`,
  };
};

const slotsDiffer: Rule = (config) => {
  const taken = places(config).filter(({ slot }) => slot !== undefined);
  const twice = taken.find(({ segment, slot }, i) =>
    taken.slice(0, i).some((other) => other.segment === segment && other.slot === slot),
  );
  return (
    twice && {
      text: `Valid PCI device identifier but already used: ${twice.slot}`,
      remedy: `${twice.at}.pci_device_id is ${twice.slot}: give one that no other device has`,
      kind: 'conflict',
    }
  );
};

/** Slot 0 is the host bridge. */
const slotsSuffice: Rule = (config) => {
  const all = places(config);
  const last = all.find(({ segment }, i) => {
    const before = all.slice(0, i).filter((other) => other.segment === segment);
    return before.length === SLOTS - 1;
  });
  return (
    last && {
      text: 'Could not find an available device slot on the PCI bus',
      remedy:
        `${last.at} is device ${SLOTS} of PCI segment ${last.segment}, which has room for ` +
        `${SLOTS - 1}: give the VM fewer devices`,
    }
  );
};

const apertures: Rule = ({ pci_segments = [] }) => {
  const segments = pci_segments.map(({ pci_segment }) => pci_segment);
  for (const [i, { pci_segment, ...weights }] of pci_segments.entries()) {
    const at = `pci_segments[${i}]`;
    if (segments.indexOf(pci_segment) < i)
      return {
        text: `PCI segment ${pci_segment} is given twice`,
        remedy: `${at}.pci_segment is ${pci_segment}: give each segment once`,
        kind: 'conflict',
      };
    const zero = Object.entries(weights).find(([, weight]) => weight === 0);
    if (zero)
      return {
        text: 'A PCI segment has no addresses',
        remedy: `${at}.${zero[0]} is 0: give 1 or more`,
      };
  }
  return undefined;
};

export const PCI_RULES: readonly Rule[] = [
  segmentCount,
  segmentsExist,
  slotsExist,
  slotsDiffer,
  slotsSuffice,
  apertures,
];
