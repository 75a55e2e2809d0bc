// SPDX-License-Identifier: Apache-2.0

// An authorization server for the interoperability tests, on the npm package oidc-provider: an implementation of
// OAuth 2.0 that has nothing in common with the operator's own test server. It listens on 127.0.0.1 only, speaks plain
// HTTP, and keeps everything in memory.
//
//   node server.mjs config.json     serves until it is interrupted
//   node server.mjs                 reads a configuration from each line of standard input: the first one starts the
//                                   server, a later one replaces it at the same address (that is how a key is rotated
//                                   or a secret changed), the end of the input stops it
//
// Each configuration is answered by one line of JSON on standard output: {"issuer": "…"}, or {"error": "…"}, after
// which the former one stays in force. Everything else goes to standard error. A configuration:
//
//   port             where to listen; default 0, any free port
//   path             goes before every path, and is part of the issuer, such as "/oidc"; default ""
//   keys             private keys as JWKs, each with its alg: the first one signs, all are published;
//                    default: an ES256 key made at the start
//   lifetime         of a token, in seconds; default 300
//   ungrantedScopes  "drop" leaves scopes that a client does not have silently out of the token (the default),
//                    "refuse" answers invalid_scope
//   resources        the APIs (RFC 8707) and the scopes that exist there: {"https://api.example.com": ["read"]}
//   clients          client_id, client_secret or jwks, token_endpoint_auth_method (client_secret_basic,
//                    client_secret_post or private_key_jwt), and scopes: what it is granted, by resource

import { generateKeyPairSync } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { createInterface } from 'node:readline';

import Provider, { errors } from 'oidc-provider';

console.info = console.warn; // the package's notices must not get between the answers

const algorithms = ['RS256', 'PS256', 'ES256', 'ES384', 'EdDSA'];

let ownKeys; // made once, so that a changed configuration without keys rotates nothing

function makeKeys() {
  const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  return [{ ...privateKey.export({ format: 'jwk' }), alg: 'ES256', use: 'sig' }];
}

function provider(issuer, config) {
  const { lifetime = 300, ungrantedScopes = 'drop', resources = {}, clients = [] } = config;
  const keys = config.keys ?? (ownKeys ??= makeKeys());
  const { alg } = keys[0];
  const refuse = ungrantedScopes === 'refuse';
  if (!refuse && ungrantedScopes !== 'drop') {
    throw new Error('ungrantedScopes must be "drop" or "refuse"');
  }
  const granted = new Map(clients.map((c) => [c.client_id, c.scopes ?? {}]));

  return new Provider(issuer, {
    jwks: { keys },
    clients: clients.map(({ scopes = {}, ...metadata }) => ({
      ...metadata,
      // A client's scope is an allow-list for the scopes that the server itself lists: others are refused.
      ...(refuse && { scope: ['openid', ...Object.values(scopes).flat()].join(' ') }),
    })),
    ...(refuse && { scopes: ['openid', ...new Set(Object.values(resources).flat())] }),
    clientAuthMethods: ['client_secret_basic', 'client_secret_post', 'private_key_jwt'],
    clientDefaults: {
      grant_types: ['client_credentials'], response_types: [], redirect_uris: [], id_token_signed_response_alg: alg,
    },
    enabledJWA: { clientAuthSigningAlgValues: algorithms, idTokenSigningAlgValues: algorithms },
    features: {
      devInteractions: { enabled: false },
      clientCredentials: { enabled: true },
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
  const mounted = provider(issuer, config).callback();
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
  answer({ issuer });
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
