/**
 * The agent on the emulated host: runs programs and opens Unix sockets for the tests, over TCP.
 * One connection is one program or one socket, and when it drops, the program's group is killed.
 *
 * Started by host-init as `node agent.mjs PORT ID`; it has no dependencies.
 */
import { spawn } from 'node:child_process';
import net from 'node:net';
import { constants } from 'node:os';
import { encodeFrame, Frame, FrameReader } from './frames.mjs';

/** A program that ended may have left its pipes to a daemon; its output is over after this. */
const LINGER_MS = 2000;

const [port, id] = process.argv.slice(2);

net
  .createServer({ allowHalfOpen: true, noDelay: true }, serve)
  .listen(Number(port), '0.0.0.0', () => console.log(`agent: listening on ${port}`));

/** @param {net.Socket} socket */
function serve(socket) {
  const reader = new FrameReader();
  socket.on('error', () => {}); // `close` follows, and is all that matters
  socket.on('data', function first(chunk) {
    reader.push(chunk);
    const frame = reader.next();
    if (!frame) return;
    socket.off('data', first);
    socket.pause(); // until somebody listens again
    const request = JSON.parse(frame.content.toString());
    if (request.op === 'spawn') run(request, socket, reader);
    else if (request.op === 'connect') connect(request, socket, reader);
    else socket.end(encodeFrame(Frame.granted, JSON.stringify({ id })));
  });
}

function refuse(socket, error) {
  const why = { code: error.code, message: error.message };
  socket.end(encodeFrame(Frame.refused, JSON.stringify(why)));
}

function run({ argv, cwd, env }, socket, reader) {
  const [program, ...args] = argv;
  const child = spawn(program, args, {
    cwd: cwd ?? '/',
    env: { ...process.env, ...env },
    detached: true, // a process group of its own
    stdio: 'pipe',
  });
  child.on('error', (error) => {
    if (child.pid === undefined) refuse(socket, error);
  });
  child.on('spawn', () => {
    socket.write(encodeFrame(Frame.granted, JSON.stringify({ pid: child.pid })));
    send(child.stdout, Frame.stdout, socket);
    send(child.stderr, Frame.stderr, socket);
    obey(child, socket, reader);
  });
  child.on('exit', () => {
    killGroup(child.pid);
    setTimeout(() => {
      child.stdout.destroy();
      child.stderr.destroy();
    }, LINGER_MS).unref();
  });
  child.on('close', (code, signal) => {
    const exit = { code: code ?? 128 + constants.signals[signal], signal };
    if (child.pid !== undefined) socket.end(encodeFrame(Frame.exit, JSON.stringify(exit)));
  });
  socket.on('close', () => {
    if (child.exitCode === null && child.signalCode === null) killGroup(child.pid);
  });
}

/** Sends what a program writes no faster than the other side takes it. */
function send(stream, type, socket) {
  stream.on('data', (chunk) => {
    if (socket.write(encodeFrame(type, chunk))) return;
    stream.pause();
    socket.once('drain', () => stream.resume());
  });
}

/** Carries out what comes after the request: input and signals. */
function obey(child, socket, reader) {
  child.stdin.on('error', () => {}); // the program closed it
  child.stdin.on('drain', () => socket.resume());
  const handle = () => {
    for (let frame = reader.next(); frame; frame = reader.next()) {
      if (frame.type === Frame.kill) child.kill(frame.content.toString());
      else if (frame.content.length === 0) child.stdin.end();
      else if (!child.stdin.write(Buffer.from(frame.content))) socket.pause();
    }
  };
  child.stdin.on('close', () => socket.resume());
  socket.on('data', (chunk) => {
    reader.push(chunk);
    handle();
  });
  socket.resume();
  socket.on('end', () => killGroup(child.pid)); // nobody half-closes: the tests are gone
  handle();
}

function killGroup(pid) {
  try {
    process.kill(-pid, 'SIGKILL');
  } catch {
    // Nobody is left in it.
  }
}

function connect({ path }, socket, reader) {
  const peer = net.connect({ path, allowHalfOpen: true });
  let connected = false;
  peer.on('connect', () => {
    connected = true;
    socket.write(encodeFrame(Frame.granted, '{}'));
    if (reader.rest.length > 0) peer.write(reader.rest);
    socket.pipe(peer);
    peer.pipe(socket);
  });
  peer.on('error', (error) => (connected ? socket.destroy() : refuse(socket, error)));
  peer.on('close', (broken) => broken && socket.destroy());
  socket.on('close', (broken) => broken && peer.destroy());
}
