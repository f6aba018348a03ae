export declare const Frame: Record<
  'request' | 'stdin' | 'kill' | 'granted' | 'refused' | 'stdout' | 'stderr' | 'exit',
  number
>;
export declare function encodeFrame(type: number, content?: string | Uint8Array): Buffer;
export declare class FrameReader {
  rest: Buffer;
  push(chunk: Uint8Array): void;
  next(): { type: number; content: Buffer } | undefined;
}
