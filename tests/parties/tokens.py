"""Makes keys and tokens with PyJWT: tokens.py CLAIMS -> {"jwks": …, "tokens": {ALG: …}}."""

import json
import sys

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

claims = json.loads(sys.argv[1])
keys, tokens = [], {}
for alg, form, key in [
    ("RS256", RSAAlgorithm, rsa.generate_private_key(public_exponent=65537, key_size=2048)),
    ("ES256", ECAlgorithm, ec.generate_private_key(ec.SECP256R1())),
    ("EdDSA", OKPAlgorithm, ed25519.Ed25519PrivateKey.generate()),
]:
    kid = f"{alg}-key"
    keys.append({**form.to_jwk(key.public_key(), as_dict=True), "kid": kid, "use": "sig"})
    tokens[alg] = jwt.encode(claims, key, algorithm=alg, headers={"kid": kid})
print(json.dumps({"jwks": {"keys": keys}, "tokens": tokens}))
