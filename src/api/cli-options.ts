/** The options of the command line. Their keys are the schemas'; here stand their names and use. */

export interface CliOption {
  name: string;
  short?: string;
  takes: 'nothing' | 'value' | 'optional value' | 'values';
  /** What of the VM's config it gives. Such options make sense with a payload only. */
  field?: string;
  help: string;
  /** Of 2020: known, so that it can be refused by name, and not told of. */
  old?: true;
}

export const OPTIONS: readonly CliOption[] = [
  {
    name: 'api-socket',
    takes: 'value',
    help: 'HTTP API socket: PATH, path=PATH, or fd=N for one that is inherited listening',
  },
  { name: 'balloon', takes: 'value', field: 'balloon', help: 'RAM that the guest lends back' },
  ...(['block-backend', 'net-backend'] as const).map(
    (name): CliOption => ({ name, takes: 'value', help: '', old: true }),
  ),
  {
    name: 'cmdline',
    takes: 'value',
    field: 'payload.cmdline',
    help: 'Command line of the guest kernel',
  },
  {
    name: 'console',
    takes: 'value',
    field: 'console',
    help: 'The virtio console [default: tty]',
  },
  { name: 'cpus', takes: 'value', field: 'cpus', help: 'Virtual CPUs [default: boot=1]' },
  {
    name: 'debug-console',
    takes: 'value',
    field: 'debug_console',
    help: 'The debug port [default: off,iobase=0xe9]',
  },
  { name: 'device', takes: 'values', field: 'devices', help: 'PCI devices passed through by VFIO' },
  { name: 'disk', takes: 'values', field: 'disks', help: 'Disks' },
  {
    name: 'event-monitor',
    takes: 'value',
    help: 'Where events are reported as JSON: path=PATH or fd=N',
  },
  {
    name: 'firmware',
    takes: 'value',
    field: 'payload.firmware',
    help: 'Firmware to boot',
  },
  { name: 'fs', takes: 'values', field: 'fs', help: 'Directories of the host, by virtiofsd' },
  {
    name: 'generic-vhost-user',
    takes: 'values',
    field: 'generic_vhost_user',
    help: 'Virtio devices whose backend speaks vhost-user',
  },
  { name: 'help', short: 'h', takes: 'nothing', help: 'Print help' },
  {
    name: 'initramfs',
    takes: 'value',
    field: 'payload.initramfs',
    help: 'Initial RAM file system of the guest kernel',
  },
  {
    name: 'kernel',
    takes: 'value',
    field: 'payload.kernel',
    help: 'Kernel to boot: an ELF with a PVH entry, or a bzImage',
  },
  { name: 'landlock', takes: 'nothing', field: 'landlock_enable', help: 'Confine file access' },
  {
    name: 'landlock-rules',
    takes: 'values',
    field: 'landlock_rules',
    help: 'Files to allow beside those named here; access is r, w or rw',
  },
  { name: 'log-file', takes: 'value', help: 'Where the log goes [default: stderr]' },
  {
    name: 'log-format',
    takes: 'value',
    help:
      'Form of a log line, of {boottime}, {wallclock}, {glog}, {localglog}, {thread}, {level}, ' +
      '{location} and {msg}',
  },
  { name: 'memory', takes: 'value', field: 'memory', help: 'Guest RAM [default: size=512M]' },
  {
    name: 'memory-zone',
    takes: 'values',
    field: 'memory.zones',
    help: 'Guest RAM in parts; --memory size=0 then',
  },
  { name: 'net', takes: 'values', field: 'net', help: 'Network cards' },
  { name: 'no-shutdown', takes: 'nothing', help: 'Stay when the guest powers off' },
  { name: 'numa', takes: 'values', field: 'numa', help: 'NUMA nodes of the guest' },
  {
    name: 'pci-segment',
    takes: 'values',
    field: 'pci_segments',
    help: 'Shares of the MMIO space for PCI segments',
  },
  { name: 'platform', takes: 'value', field: 'platform', help: 'The machine around the devices' },
  { name: 'pmem', takes: 'values', field: 'pmem', help: 'Files as persistent memory' },
  { name: 'pvpanic', takes: 'nothing', field: 'pvpanic', help: 'Report panics of the guest' },
  {
    name: 'rate-limit-group',
    takes: 'values',
    field: 'rate_limit_groups',
    help: 'Limits that several disks share',
  },
  { name: 'restore', takes: 'value', help: 'Restore a VM from a snapshot' },
  { name: 'rng', takes: 'value', field: 'rng', help: 'Entropy [default: src=/dev/urandom]' },
  { name: 'rtc', takes: 'optional value', field: 'rtc', help: 'A virtio clock' },
  {
    name: 'seccomp',
    takes: 'value',
    help: 'What a system call that is not allowed does [default: true]',
  },
  { name: 'serial', takes: 'value', field: 'serial', help: 'The serial port [default: null]' },
  { name: 'tpm', takes: 'value', field: 'tpm', help: 'A TPM, by swtpm' },
  {
    name: 'user-device',
    takes: 'values',
    field: 'user_devices',
    help: 'PCI devices of other processes, by vfio-user',
  },
  { name: 'v', short: 'v', takes: 'nothing', help: 'Log more: -v info, -vv debug, -vvv trace' },
  { name: 'vdpa', takes: 'values', field: 'vdpa', help: 'vDPA devices' },
  { name: 'version', short: 'V', takes: 'nothing', help: 'Print version' },
  { name: 'vsock', takes: 'value', field: 'vsock', help: 'Sockets between guest and host' },
  { name: 'watchdog', takes: 'nothing', field: 'watchdog', help: 'Reset a guest that hangs' },
];

/** Any one of these is a payload, which every option of the VM's config needs. */
export const PAYLOADS: readonly string[] = ['firmware', 'kernel'];

export const SECCOMP_VALUES = ['true', 'false', 'log', 'errno'] as const;

/** What follows an option that takes something. */
export const placeholder = ({ name, takes }: CliOption): string =>
  takes === 'nothing' ? '' : takes === 'values' ? ` <${name}>...` : ` <${name}>`;
