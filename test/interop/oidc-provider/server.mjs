// SPDX-License-Identifier: Apache-2.0

// An authorization server for the interoperability tests, on the npm package oidc-provider: an implementation of
// OAuth 2.0 that shares nothing with the operator's own test server. It listens on 127.0.0.1 only, speaks plain HTTP,
// and keeps everything in memory.
//
//   node server.mjs config.json     serves until it is interrupted
//   node server.mjs                 reads a configuration from each line of standard input. The first one starts the
//                                   server; a later one replaces it at the same address, to rotate a key or change a
//                                   secret; the end of the input stops it
//
// It answers each configuration with one line of JSON on standard output: {"issuer": "…"}, or {"error": "…"}; after an
// error, the previous configuration stays in force. Everything else goes to standard error. A configuration:
//
//   port             where to listen; default 0, any free port
//   path             goes before every path, and is part of the issuer, such as "/oidc"; default ""
//   keys             private keys as JWKs, each with its alg: the first one signs, all are published;
//                    default: an ES256 key made at the start
//   lifetime         of a token, in seconds; default 300
//   ungrantedScopes  "drop" silently leaves scopes that a client does not have out of the token (the default),
//                    "refuse" answers invalid_scope
//   resources        the APIs (RFC 8707) and the scopes that exist there: {"https://api.example.com": ["read"]}
//   clients          client_id, client_secret or jwks, token_endpoint_auth_method (client_secret_basic,
//                    client_secret_post or private_key_jwt), and scopes: the granted scopes, by resource
//   registration     lets clients register themselves (RFC 7591) and manage that (RFC 7592); needs ungrantedScopes
//                    "refuse", since a client may then register no other scopes than those of the resources:
//                    {initialAccessToken: "…", rotate: whether each update replaces the registration access token}
//   changes          changes made at the console: metadata of registered clients by client_id (without scope, the client
//                    has none), null to delete one; applied once, when the configuration arrives
//
// With registration, the answer lists the registered clients too: {"issuer": "…", "registered": [{"client_id": "…", …}]}.

import { generateKeyPairSync } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { createInterface } from 'node:readline';

import Provider, { errors } from 'oidc-provider';

console.info = console.warn; // keeps the package's notices from mixing with the answers

const algorithms = ['RS256', 'PS256', 'ES256', 'ES384', 'EdDSA'];

let ownKeys; // made once, so that a changed configuration without keys rotates nothing

function makeKeys() {
  const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  return [{ ...privateKey.export({ format: 'jwk' }), alg: 'ES256', use: 'sig' }];
}

const stored = new Map();

// Store keeps what the package stores across changes of the configuration. The package calls no other methods here.
class Store {
  constructor(kind) {
    this.key = (id) => `${kind} ${id}`;
  }

  async upsert(id, payload) {
    stored.set(this.key(id), payload);
  }

  async find(id) {
    return stored.get(this.key(id));
  }

  async destroy(id) {
    stored.delete(this.key(id));
  }
}

function provider(issuer, config) {
  const { lifetime = 300, ungrantedScopes = 'drop', resources = {}, clients = [], registration } = config;
  const keys = config.keys ?? (ownKeys ??= makeKeys());
  const { alg } = keys[0];
  const refuse = ungrantedScopes === 'refuse';
  if (!refuse && ungrantedScopes !== 'drop') {
    throw new Error('ungrantedScopes must be "drop" or "refuse"');
  }
  if (registration && !refuse) {
    throw new Error('registration needs ungrantedScopes "refuse"');
  }
  const granted = new Map(clients.map((c) => [c.client_id, c.scopes ?? {}]));

  const created = new Provider(issuer, {
    adapter: Store,
    jwks: { keys },
    clients: clients.map(({ scopes = {}, ...metadata }) => ({
      // Not clientDefaults: clients that register themselves have to say so.
      grant_types: ['client_credentials'], response_types: [], redirect_uris: [],
      ...metadata,
      // A client's scope is an allow-list for the scopes that the server itself lists: others are refused.
      ...(refuse && { scope: ['openid', ...Object.values(scopes).flat()].join(' ') }),
    })),
    ...(refuse && { scopes: ['openid', ...new Set(Object.values(resources).flat())] }),
    clientAuthMethods: ['client_secret_basic', 'client_secret_post', 'private_key_jwt'],
    clientDefaults: { id_token_signed_response_alg: alg },
    enabledJWA: { clientAuthSigningAlgValues: algorithms, idTokenSigningAlgValues: algorithms },
    features: {
      devInteractions: { enabled: false },
      clientCredentials: { enabled: true },
      ...(registration && {
        registration: { enabled: true, initialAccessToken: registration.initialAccessToken },
        registrationManagement: { enabled: true, rotateRegistrationAccessToken: registration.rotate },
      }),
      resourceIndicators: {
        enabled: true,
        getResourceServerInfo(ctx, resource, client) {
          if (!Object.hasOwn(resources, resource)) {
            throw new errors.InvalidTarget();
          }
          // What is asked for and not listed here is left out of the token.
          const allowed = refuse ? resources[resource] : (granted.get(client.clientId)[resource] ?? []);
          return {
            audience: resource,
            scope: resources[resource].filter((s) => allowed.includes(s)).join(' '),
            accessTokenFormat: 'jwt',
            accessTokenTTL: lifetime,
            jwt: { sign: { alg } },
          };
        },
      },
    },
  });
  created.on('registration_create.success', (ctx, client) => registered.add(client.clientId));
  created.on('registration_delete.success', (ctx, client) => registered.delete(client.clientId));
  return created;
}

const registered = new Set(); // the identifiers of clients that registered themselves

// change does what is ordered at the console.
async function change({ adapter }, changes) {
  for (const [id, metadata] of Object.entries(changes)) {
    if (metadata) {
      await adapter.upsert(id, { ...await adapter.find(id), scope: undefined, ...metadata });
    } else {
      await adapter.destroy(id);
      registered.delete(id);
    }
  }
}

async function list({ adapter }) {
  const all = await Promise.all([...registered].map((id) => adapter.find(id)));
  return all.map(({ client_id, client_name, scope }) => ({ client_id, client_name, scope }));
}

const answer = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);

let server;
let issuer;
let handle = (req, res) => res.writeHead(503).end();

async function serve(config) {
  const path = config.path ?? '';
  if (!server) {
    const listening = createServer((req, res) => handle(req, res));
    await new Promise((resolve, reject) => {
      listening.once('error', reject);
      listening.listen(config.port ?? 0, '127.0.0.1', resolve);
    });
    server = listening;
  }
  issuer ??= `http://127.0.0.1:${server.address().port}${path}`;
  const { pathname } = new URL(issuer);
  const created = provider(issuer, config);
  await change(created.Client, config.changes ?? {});
  const mounted = created.callback();
  handle = (req, res) => {
    if (pathname !== '/') {
      if (!req.url.startsWith(`${pathname}/`)) {
        res.writeHead(404).end();
        return;
      }
      // How the package learns that it is mounted below a path.
      req.originalUrl = req.url;
      req.url = req.url.slice(pathname.length);
    }
    mounted(req, res);
  };
  answer({ issuer, ...(config.registration && { registered: await list(created.Client) }) });
}

const [file] = process.argv.slice(2);
if (file) {
  await serve(JSON.parse(readFileSync(file, 'utf8')));
} else {
  for await (const line of createInterface({ input: process.stdin })) {
    try {
      await serve(JSON.parse(line));
    } catch (error) {
      answer({ error: error.message });
    }
  }
  process.exit(0);
}
