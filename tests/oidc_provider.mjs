// An OpenID Connect provider whose people are their e-mail addresses: it prints its port.
// Run it in a folder that has oidc-provider installed.
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const found = createRequire(`${process.cwd()}/`).resolve("oidc-provider");
const { default: Provider } = await import(pathToFileURL(found));
const server = createServer();

server.listen(0, "127.0.0.1", () => {
  const { port } = server.address();
  const provider = new Provider(`http://localhost:${port}`, {
    clients: [
      {
        client_id: "bascule",
        client_secret: "a secret of the tests, long enough",
        application_type: "native", // its loopback addresses may have any port (RFC 8252)
        redirect_uris: ["http://127.0.0.1/sign-in/callback"],
      },
    ],
    claims: { openid: ["sub"], email: ["email", "email_verified"], profile: ["roles"] },
    findAccount: (_, id) => ({
      accountId: id,
      claims: () => ({
        sub: id,
        email: id,
        email_verified: true,
        ...(id.startsWith("ada") ? { roles: ["viewer:*"] } : {}),
      }),
    }),
  });
  server.on("request", provider.callback());
  console.log(port);
});
