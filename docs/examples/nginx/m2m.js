// SPDX-License-Identifier: Apache-2.0
//
// Verifies access tokens in nginx, with njs and nothing but the files of a verification bundle. It reads them for each
// request, so that new keys and withdrawals count at once. nginx.conf beside it shows how to use it:
//
//   $m2m_bundle  the bundle's directory, such as /var/run/secrets/m2m-operator.io/verify/payment-api
//   $m2m_scope   the scope that a request needs; empty if a valid token will do
//
// It answers 204 for a good token, 401 for a missing or bad token, 403 for a token without the scope. njs has no EdDSA:
// it refuses tokens signed with Ed25519.

import fs from 'fs';

const hashes = {'256': 'SHA-256', '384': 'SHA-384', '512': 'SHA-512'};

const curves = { // by alg: the bytes before x and y in a SubjectPublicKeyInfo (RFC 5480), in hexadecimal
    ES256: {crv: 'P-256', size: 32, prefix: '3059301306072a8648ce3d020106082a8648ce3d03010703420004'},
    ES384: {crv: 'P-384', size: 48, prefix: '3076301006072a8648ce3d020106052b8104002203620004'},
    ES512: {crv: 'P-521', size: 66, prefix: '30819b301006072a8648ce3d020106052b810400230381860004'},
};

function bytes(text) {
    return Buffer.from(text, 'base64url');
}

// der encodes one ASN.1 value.
function der(tag, content) {
    const n = content.length;
    const length = n < 128 ? [n] : n < 256 ? [0x81, n] : [0x82, n >> 8, n & 0xff];
    return Buffer.concat([Buffer.from([tag].concat(length)), content]);
}

// integer encodes a positive number, without leading zeros, except for one zero byte if the highest bit is set.
function integer(number) {
    let start = 0;
    while (start < number.length - 1 && number[start] === 0) {
        start++;
    }
    const digits = number.slice(start);
    return der(2, digits[0] & 0x80 ? Buffer.concat([Buffer.from([0]), digits]) : digits);
}

// padded restores the leading zeros of a coordinate, which some servers drop.
function padded(number, size) {
    return Buffer.concat([Buffer.alloc(Math.max(0, size - number.length)), number]);
}

// keyFor imports a JWK for an algorithm. It throws if they do not fit.
function keyFor(jwk, alg) {
    const hash = hashes[alg.slice(2)];
    if (jwk.kty === 'EC' && curves[alg] && curves[alg].crv === jwk.crv) {
        const curve = curves[alg];
        const point = Buffer.concat([Buffer.from(curve.prefix, 'hex'), padded(bytes(jwk.x), curve.size), padded(bytes(jwk.y), curve.size)]);
        return {spki: point, how: {name: 'ECDSA', hash: hash, namedCurve: curve.crv}};
    }
    if (jwk.kty === 'RSA' && hash && (alg.startsWith('RS') || alg.startsWith('PS'))) {
        const algorithm = Buffer.from('300d06092a864886f70d0101010500', 'hex');
        const key = der(0x30, Buffer.concat([integer(bytes(jwk.n)), integer(bytes(jwk.e))]));
        const spki = der(0x30, Buffer.concat([algorithm, der(3, Buffer.concat([Buffer.from([0]), key]))]));
        const pss = alg.startsWith('PS');
        return {spki: spki, how: {name: pss ? 'RSA-PSS' : 'RSASSA-PKCS1-v1_5', hash: hash, saltLength: pss ? Number(alg.slice(2)) / 8 : undefined}};
    }
    throw new Error('the key does not fit the algorithm');
}

async function signedBy(jwk, alg, signature, data) {
    const key = keyFor(jwk, alg);
    const imported = await crypto.subtle.importKey('spki', key.spki, key.how, false, ['verify']);
    return await crypto.subtle.verify(key.how, imported, signature, data);
}

function media(type) {
    return String(type).toLowerCase().replace(/^application\//, '');
}

function list(claim) {
    return Array.isArray(claim) ? claim : [claim];
}

// firstOf returns the first of some claims that a token has, or undefined if it has none of them.
function firstOf(claims, names) {
    const found = names.filter((name) => claims[name] !== undefined && claims[name] !== null)[0];
    return found === undefined ? undefined : claims[found];
}

// words returns the words of a string, or the items of a list.
function words(claim) {
    return typeof claim === 'string' ? claim.split(' ') : list(claim);
}

// carries reports whether a token has a scope. verification.json says where to look.
function carries(claims, want, scope) {
    const known = want.scopes.filter((s) => s.name === scope)[0];
    const found = known ? firstOf(claims, known.claims) : undefined;
    return found !== undefined && words(found).includes(scope);
}

// namesAPI reports whether a token names the API, by aud unless verification.json says otherwise.
function namesAPI(claims, want) {
    const by = want.audienceIn;
    if (by === undefined) {
        return list(claims.aud).includes(want.audience);
    }
    const found = firstOf(claims, by.claims);
    if (by.values) {
        return list(found).some((value) => by.values.includes(value));
    }
    return Boolean(by.prefix) && words(found).some((word) => typeof word === 'string' && word.startsWith(by.prefix));
}

// claimsOf returns the claims of a token that is good for the API. It throws for a bad one.
async function claimsOf(token, bundle) {
    const want = JSON.parse(fs.readFileSync(bundle + '/verification.json'));
    const keys = JSON.parse(fs.readFileSync(bundle + '/jwks.json')).keys;
    const parts = token.split('.');
    if (parts.length !== 3) {
        throw new Error('no JWT');
    }
    const header = JSON.parse(bytes(parts[0]).toString());
    if (!want.algorithms.includes(header.alg) || header.crit !== undefined) {
        throw new Error('the algorithm is not allowed');
    }
    if (want.tokenType && (header.typ === undefined || media(header.typ) !== media(want.tokenType))) {
        throw new Error('another type');
    }
    const fit = keys.filter((k) => (header.kid === undefined || k.kid === header.kid) && (k.alg === undefined || k.alg === header.alg));
    let good = false;
    for (let i = 0; i < fit.length && !good; i++) { // two keys may have the same ID
        try {
            good = await signedBy(fit[i], header.alg, bytes(parts[2]), Buffer.from(parts[0] + '.' + parts[1]));
        } catch (e) {
            good = false;
        }
    }
    if (!good) {
        throw new Error('no key has signed this');
    }
    const claims = JSON.parse(bytes(parts[1]).toString());
    const now = Date.now() / 1000;
    if (claims.iss !== want.issuer || !namesAPI(claims, want)) {
        throw new Error('another issuer or audience');
    }
    if (typeof claims.exp !== 'number' || now >= claims.exp + want.clockSkewSeconds) {
        throw new Error('expired');
    }
    if (claims.nbf !== undefined && !(now >= claims.nbf - want.clockSkewSeconds)) {
        throw new Error('not valid yet');
    }
    return {claims: claims, want: want};
}

async function verify(r) {
    const bearer = /^Bearer ([A-Za-z0-9_.-]+)$/i.exec(r.headersIn.Authorization || '');
    let error = '';
    if (bearer) {
        try {
            const token = await claimsOf(bearer[1], r.variables.m2m_bundle);
            const scope = r.variables.m2m_scope;
            if (scope && !carries(token.claims, token.want, scope)) {
                r.return(403);
                return;
            }
            r.return(204);
            return;
        } catch (e) {
            r.warn('m2m: token refused: ' + e.message);
            error = ' error="invalid_token"';
        }
    }
    r.headersOut['WWW-Authenticate'] = 'Bearer' + error;
    r.return(401);
}

export default {verify};
