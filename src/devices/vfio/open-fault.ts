/** Why a device of the host's own cannot be opened, and what to do about it. */
import { osError, VmmError } from '../../errors.ts';
import { refusedDevice } from './sysfs.ts';

interface Reason {
  call: RegExp;
  code: RegExp;
  text: string;
  remedy: string;
}

/** The first that fits counts. */
const REASONS: readonly Reason[] = [
  {
    ...{ call: /^virtual IOMMU$/, code: /EBUSY/ },
    text: 'The device shares its IOMMU group with another of the guest',
    remedy: 'behind the virtual IOMMU each needs a group of its own: leave one of them out',
  },
  {
    ...{ call: /^virtual IOMMU$/, code: /./ },
    text: "The host's IOMMU maps no pages as small as the guest does",
    remedy: 'set iommu to off',
  },
  {
    ...{ call: /vfio\/vfio|EXTENSION|VERSION/, code: /./ },
    text: 'failed to open /dev/vfio/vfio container',
    remedy: 'load the kernel module vfio-pci, and give the VMM access to /dev/vfio/vfio',
  },
  {
    ...{ call: /group|GROUP|IOMMU/, code: /EBUSY/ },
    text: 'The device is already in use',
    remedy: 'another VM or program has it, or a device of its IOMMU group: end that first',
  },
  {
    ...{ call: /GROUP_GET_STATUS/, code: /./ },
    text: 'The device shares its IOMMU group with one that the host uses',
    remedy: 'bind all of the group to vfio-pci, or leave them without a driver',
  },
  {
    ...{ call: /VFIO group/, code: /./ },
    text: "The group's file in /dev/vfio cannot be opened",
    remedy: 'give the VMM access to it',
  },
  {
    ...{ call: /MAP_DMA/, code: /ENOMEM/ },
    text: 'Guest memory cannot be locked for the device',
    remedy:
      "raise the VMM's limit of locked memory, RLIMIT_MEMLOCK, above the size of the guest, once " +
      'for each device behind the virtual IOMMU',
  },
  {
    ...{ call: /MAP_DMA/, code: /./ },
    text: 'failed to add guest memory map into iommu table',
    remedy: "the host's IOMMU does not reach all guest addresses: lower cpus.max_phys_bits",
  },
];

export function openFault(cause: unknown, path: string, id: string): VmmError {
  if (cause instanceof VmmError) return cause;
  const { syscall = '', code = '' } = cause as NodeJS.ErrnoException & { syscall?: string };
  const reason = REASONS.find((one) => one.call.test(syscall) && one.code.test(code));
  const text = reason?.text ?? `failed to open the device: ${osError(cause).message}`;
  const remedy = reason?.remedy ?? "the host's kernel log may say more";
  return refusedDevice(text, `The path of device ${id} is ${path}: ${remedy}`, cause);
}
