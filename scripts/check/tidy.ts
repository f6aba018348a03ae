/**
 * House rules that no tool has: each is a function of one file's text, or of a commit's subject.
 */
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import ts from 'typescript';
import { filesNamed } from './sources.ts';

const FILE_LINES_MAX = 500;
const FUNCTION_LINES_MAX = 60;
const COLUMNS_MAX = 100;
const SUBJECT_COLUMNS_MAX = 72;
/** Joined here, so that this file may stand among those that are searched for them. */
const UNFINISHED = new RegExp(
  `\\b(${['TO' + 'DO', 'FIX' + 'ME', 'XX' + 'X', 'HA' + 'CK'].join('|')})\\b`,
);

type Rule = (text: string, path: string) => string[];

const isCpp = (path: string): boolean => /\.(cc|h|c)$/.test(path);

/** `what` at each line that matches. */
const forbid =
  (pattern: RegExp, what: string, where: (path: string) => boolean = () => true): Rule =>
  (text, path) =>
    where(path)
      ? text.split('\n').flatMap((line, i) => (pattern.test(line) ? [`${i + 1}: ${what}`] : []))
      : [];

const fileLength: Rule = (text) =>
  text.split('\n').length - 1 > FILE_LINES_MAX ? [`1: More than ${FILE_LINES_MAX} lines`] : [];

const tooLong = (line: number, lines: number): string[] =>
  lines > FUNCTION_LINES_MAX ? [`${line}: A function of ${lines} lines`] : [];

const tsFunctionLength: Rule = (text, path) => {
  if (!path.endsWith('.ts') || path.endsWith('.test.ts')) return []; // a suite is a function, too
  const file = ts.createSourceFile(path, text, ts.ScriptTarget.Latest);
  const line = (position: number) => file.getLineAndCharacterOfPosition(position).line + 1;
  const visit = (node: ts.Node): string[] => {
    const start = line(node.getStart(file));
    const own = ts.isFunctionLike(node) ? tooLong(start, line(node.end) - start + 1) : [];
    let found = own;
    ts.forEachChild(node, (child) => {
      found = found.concat(visit(child));
    });
    return found;
  };
  return visit(file);
};

/** In formatted code a body ends at the brace under the first line of its function; of constructors
 * whose initialisers have lines of their own, nothing is said. */
const cppFunctionLength: Rule = (text, path) => {
  if (!isCpp(path)) return [];
  const functions = text.matchAll(/^( *)(?!namespace|\/\/| |:)[^\n]*\)[\w ]*\{\n(?:.*\n)*?\1\}/gm);
  return [...functions].flatMap((match) => {
    const start = text.slice(0, match.index).split('\n').length;
    return tooLong(start, match[0].split('\n').length);
  });
};

const isCore = (path: string): boolean => /^native\/(?!binding\/|launcher\/)/.test(path);

const RULES: Rule[] = [
  fileLength,
  tsFunctionLength,
  cppFunctionLength,
  // A literal is not broken for it: texts of the wire and patterns are searched for as they are.
  forbid(new RegExp(`^(?=.{${COLUMNS_MAX + 1}})[^'"\`]*$`), `More than ${COLUMNS_MAX} columns`),
  forbid(UNFINISHED, 'Unfinished work: finish it, or say in an issue what is open'),
  forbid(
    /#include <(napi|node|node_api|uv|v8)\.h>/,
    'Only native/binding knows Node',
    (path) => isCpp(path) && !path.startsWith('native/binding/'),
  ),
  forbid(/^(?!\s*\/\/).*\bthrow\b/, 'The core returns errors; only the binding throws', isCore),
  forbid(
    /\.node['"`]/,
    'Only src/native.ts and the loader name the addon',
    (path) => path.startsWith('src/') && !/^src\/(native|loader)\.ts$/.test(path),
  ),
];

export async function sourceRules(): Promise<string> {
  const files = filesNamed('ts', 'mts', 'mjs', 'cjs', 'cc', 'h', 'c', 'sh');
  const wrong = files.flatMap((path) => {
    const text = readFileSync(path, 'utf8');
    return RULES.flatMap((rule) => rule(text, path)).map((what) => `${path}:${what}`);
  });
  return wrong.join('\n');
}

/** What is on this branch and not on the one that it will join; all, where there is no such. */
function branchSubjects(): string[] {
  const git = (...args: string[]) => execFileSync('git', args, { encoding: 'utf8' });
  const upstream = git('for-each-ref', '--format=%(refname)', 'refs/remotes/origin/main').trim();
  const range = upstream === '' ? 'HEAD' : `${upstream}..HEAD`;
  return git('log', '--no-merges', '--format=%s', range).split('\n').filter(Boolean);
}

export async function commitSubjects(): Promise<string> {
  const wellFormed = /^[a-z][a-z0-9/-]*: [A-Z`].*[^.]$/;
  return branchSubjects()
    .filter((text) => text.length > SUBJECT_COLUMNS_MAX || !wellFormed.test(text))
    .map((text) => `Not \`component: Summary\` of ${SUBJECT_COLUMNS_MAX} columns: ${text}`)
    .join('\n');
}
