import { expect, test } from 'vitest';
import { generateSchemaTables } from '../../../scripts/build/schema-tables.ts';
import * as live from '../../../src/vmm/schema-tables.ts';

test('the generated module exports what the live one does, and needs no other', async () => {
  const source = await generateSchemaTables();

  const generated = await import(`data:text/javascript,${encodeURIComponent(source)}`);
  expect(source).not.toMatch(/\b(import|require)\b/);
  expect({ ...generated }).toEqual({ ...live });
});
