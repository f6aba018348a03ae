/**
 * Writes the module that stands in for src/vmm/schema-tables.ts in the product: the same exports,
 * as literals.
 */
import { SCHEMAS } from '../../src/vmm/schema-tables.ts';

export async function generateSchemaTables(): Promise<string> {
  return `export const SCHEMAS = ${JSON.stringify(SCHEMAS)};\n`;
}
