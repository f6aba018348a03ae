/** The HTTP API: Fastify over our own framing. What each endpoint does stands in routes.ts. */
import fastify, { type FastifyError, type FastifyReply, type FastifyRequest } from 'fastify';
import { type ErrorKind, errorChain, VmmError } from '../errors.ts';
import { parseJson } from './json.ts';
import { ROUTES, type Route, type VmmApi } from './routes.ts';
import { asciiJson, type WireHandler, type WireRequest, WireServer } from './wire.ts';

/**
 * The statuses that both API documents list. The original answers 500 to nearly all of them, and
 * known clients look only at the class.
 */
const HTTP_STATUS: Record<ErrorKind, number> = {
  'invalid-config': 400,
  'not-found': 404,
  'not-created': 404,
  'bad-state': 405,
  conflict: 409,
  busy: 429,
  host: 500,
  internal: 500,
};

/** What stands for a body until it is validated. */
interface Unread {
  bytes: Buffer;
  read: Route['read'];
}

/**
 * A server of `vmm` that has yet to be told where to listen.
 * @param onRequest hears of each before it is served.
 */
export async function createApi(vmm: VmmApi, onRequest = () => {}): Promise<WireServer> {
  const { api, wire } = createFastify(onRequest);
  // Whatever type a client claims, a body is JSON; only endpoints that take one look into it.
  api.removeAllContentTypeParsers();
  api.addContentTypeParser('*', (request, payload, done) => {
    const { body: bytes } = payload as unknown as WireRequest;
    done(null, { bytes, read: routeOf(request)?.read } satisfies Unread);
  });
  api.setReplySerializer(asciiJson);
  api.setErrorHandler(answerError);
  api.setNotFoundHandler(answerUnknown); // for methods that no route has
  // Fastify takes a third of a millisecond to start for each route, so it has two for all of ours.
  for (const method of ['GET', 'PUT'] as const)
    api.route({
      method,
      url: '/',
      ...(method === 'PUT' && { schema: { body: validate } }),
      preValidation: async (request, reply) => {
        const route = routeOf(request);
        if (route?.method !== method) return answerUnknown(request, reply);
        if (isRefused(route, request.body)) return reply.code(400).send(['Bad Request']);
      },
      handler: async (request, reply) => {
        const route = routeOf(request);
        const { fds } = request.raw as unknown as WireRequest;
        const result = await route?.run(vmm, request.body as never, fds);
        return reply.code(result ? 200 : (route?.emptyStatus ?? 204)).send(result);
      },
    });
  await api.ready();
  return wire;
}

function createFastify(onRequest: () => void) {
  let handle: WireHandler = () => {};
  const wire = new WireServer((request, reply) => {
    onRequest();
    handle(request, reply);
  });
  const api = fastify({
    // Fastify asks a server for one event, and nothing more until it is told to listen.
    serverFactory: (handler) => {
      handle = handler as unknown as WireHandler;
      return { on: () => {} } as never;
    },
    rewriteUrl: () => '/',
    // Nothing is compiled at run time: the schema of a route is its validator.
    schemaController: {
      compilersFactory: {
        buildValidator: () => schemaOf as never,
        buildSerializer: () => () => asciiJson,
      },
    },
    exposeHeadRoutes: false,
    pluginTimeout: 0, // it would be a timer, for plugins that there are not
  });
  return { api, wire };
}

const schemaOf = ({ schema }: { schema: unknown }) => schema;

/** Paths match exactly: no query, no escapes, no trailing slash. */
function routeOf({ originalUrl }: FastifyRequest): Route | undefined {
  const target = originalUrl.replace(/^http:\/\/[^/]*/i, '');
  return ROUTES.find(({ path }) => path === target);
}

/** A body where none is taken is a mistake, and so is none where one is. */
const isRefused = ({ read, ignoresBody }: Route, body: unknown): boolean =>
  read ? !body : Boolean(body) && !ignoresBody;

/** The handler gets what `read` makes of the body's JSON. */
function validate(body: Unread | null) {
  if (!body?.read) return true;
  try {
    return { value: body.read(parseJson(body.bytes)) };
  } catch (error) {
    return { error };
  }
}

function answerUnknown(request: FastifyRequest, reply: FastifyReply) {
  const known = routeOf(request);
  if (!known) return reply.code(404).send(['Not Found']);
  return reply.code(405).header('Allow', known.method).send(['Method Not Allowed']);
}

/** A failure is a JSON array: the message of each error in the cause chain, outermost first. */
function answerError(error: FastifyError, request: FastifyRequest, reply: FastifyReply) {
  if (error instanceof VmmError) {
    // Clients look for these very words, and try again.
    if (error.kind === 'busy') return reply.code(429).send(['Too Many Requests']);
    const prefix = error.validationContext === 'body' ? [] : ['Error from API'];
    return reply.code(HTTP_STATUS[error.kind]).send([...prefix, ...errorChain(error)]);
  }
  // Of a method that no route has.
  if (error.code === 'FST_ERR_NOT_FOUND') return answerUnknown(request, reply);
  if (error.code === 'ERR_ASSERTION')
    setImmediate(() => {
      throw error; // a broken invariant ends the process; first the client is told
    });
  return reply.code(500).send(['Error from API', ...errorChain(error)]);
}
