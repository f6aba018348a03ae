/**
 * The arrows between the parts of src/: main → api → vmm → devices → foundations → addon.
 * Whatever goes against one is an error, types included.
 */

/** What an API may see of the VMM: its verbs, its config, and the tables made from the config. */
const VMM_CONTRACT = '^src/vmm/(vmm|config|schema-tables|host)[.]ts$|^src/vmm/config/[^/]+[.]ts$';

/**
 * What devices share: of virtio, files with a dash in their names. Everything else under
 * src/devices is a device, and no device knows another.
 */
const DEVICE_PARTS =
  '^src/devices/(device|registers|acpi/aml|[^/]+/device|pci/(config-space|msix|msi)|vfio(-user)?/[a-z-]+|virtio/(?!transport)[a-z]+-[a-z-]+|vhost-user/(protocol|channel|frontend|shared-memory|door|backend))[.]ts$';

/** The lists of devices, of a config's and of every machine's, and what puts them on the bus. */
const DEVICE_LISTS = '^src/vmm/(devices|pci-devices|iommu|platform)[.]ts$';

const rule = (name, comment, from, to) => ({ name, comment, severity: 'error', from, to });

module.exports = {
  forbidden: [
    rule('no-circular', 'A cycle is one module in several files', {}, { circular: true }),
    rule(
      'no-orphans',
      'A module that nobody imports is dead',
      { orphan: true, path: '^src/', pathNot: '^src/main[.]ts$' },
      {},
    ),
    rule('no-unresolvable', 'The import leads nowhere', {}, { couldNotResolve: true }),
    rule('main-is-the-top', 'Nobody imports main', {}, { path: '^src/main[.]ts$' }),
    rule(
      'foundations-are-the-bottom',
      'Files directly in src/ import nothing from its folders; main and the tables do',
      { path: '^src/[^/]+[.]ts$', pathNot: '^src/main[.]ts$' },
      { path: '^src/[^/]+/' },
    ),
    rule(
      'devices-know-no-vmm',
      'Facts flow up through callbacks',
      { path: '^src/devices/' },
      { path: '^src/(vmm|api)/' },
    ),
    rule(
      'devices-know-no-other-device',
      'What two devices share is a part: device.ts, registers.ts, aml.ts, or of their family',
      { path: '^src/devices/' },
      { path: '^src/devices/', pathNot: DEVICE_PARTS },
    ),
    rule('vmm-knows-no-api', 'The API calls the VMM', { path: '^src/vmm/' }, { path: '^src/api/' }),
    rule(
      'vmm-sees-devices-in-lists',
      'Only the lists of devices and what attaches them name one; the rest sees interfaces',
      { path: '^src/vmm/', pathNot: DEVICE_LISTS },
      { path: '^src/devices/', pathNot: '^src/devices/(device|acpi/aml)[.]ts$' },
    ),
    rule(
      'api-sees-verbs-and-config',
      'The API sees the verbs and the config of the VMM, not its parts',
      { path: '^src/api/' },
      { path: '^src/(vmm|devices)/', pathNot: VMM_CONTRACT },
    ),
    rule(
      'product-needs-no-tools',
      'src/ runs without development dependencies, tests and scripts',
      { path: '^src/' },
      { path: '^(test|scripts|bench|guest-images)/|node_modules', dependencyTypes: ['npm-dev'] },
    ),
    rule(
      'product-stands-alone',
      'src/ imports nothing from outside it',
      { path: '^src/' },
      { path: '^(test|scripts|bench|guest-images)/' },
    ),
  ],
  options: {
    doNotFollow: { path: 'node_modules' },
    tsConfig: { fileName: 'tsconfig.json' },
    tsPreCompilationDeps: true,
    enhancedResolveOptions: { extensions: ['.ts', '.js', '.mjs', '.cjs', '.json'] },
  },
};
