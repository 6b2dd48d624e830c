//! Images that come and go, networks and volumes that are made, what is refused and what is pruned.

use crate::http::{Answer, ask, send};
use crate::scenario::{Asked, tar};
use serde_json::{Value, json};

impl Asked<'_, '_> {
    fn stream(&mut self, schema: &str, answer: &Answer) {
        let schema = json!({ "$ref": format!("#/definitions/{schema}") });
        for line in answer.lines() {
            self.checker.check("stream", &schema, &line);
        }
    }

    pub fn images(&mut self) {
        let v = self.version.to_owned();
        let post = |path: &str| ask(self.d, "POST", &format!("/v{v}{path}"), &Value::Null);
        let name = format!("127.0.0.1:5000/made-{}", v.replace('.', "-"));
        assert_eq!(
            post(&format!("/images/full/tag?repo={name}&tag=1")).status,
            201
        );
        let pushed = post(&format!("/images/{name}/push?tag=1"));
        assert!(pushed.text().contains("digest"), "{}", pushed.text());
        self.stream("PushImageInfo", &pushed);
        self.get(
            "GET /distribution/{name}/json",
            &format!("/distribution/{name}:1/json"),
        );
        let missing = post(&format!("/images/{name}/push?tag=none"));
        self.stream("PushImageInfo", &missing);
        self.ask(
            200,
            "DELETE /images/{name}",
            &format!("/images/{name}:1"),
            &Value::Null,
        );
        let pulled = post(&format!("/images/create?fromImage={name}&tag=1"));
        assert!(pulled.text().contains("Status"), "{}", pulled.text());
        self.stream("CreateImageInfo", &pulled);
        // What is not there.
        let nothing = "/images/create?fromImage=127.0.0.1:5000/none&tag=1";
        self.ask(404, "POST /images/create", nothing, &Value::Null);
        let context = tar(
            self.d,
            "Dockerfile",
            &format!("FROM full\nUSER root\nRUN echo {v}\nRUN exit 9\n"),
        );
        let head = ["Content-Type: application/x-tar"];
        let built = send(self.d, "POST", &format!("/v{v}/build"), &head, &context);
        assert!(
            built.text().contains("returned a non-zero code"),
            "{}",
            built.text()
        );
        self.stream("BuildInfo", &built);
        let context = tar(self.d, "Dockerfile", &format!("FROM bb\nLABEL v={v}\n"));
        let built = send(
            self.d,
            "POST",
            &format!("/v{v}/build?t=v{v}"),
            &head,
            &context,
        );
        assert!(
            built.text().contains("Successfully built"),
            "{}",
            built.text()
        );
        self.stream("BuildInfo", &built);
        self.get(
            "GET /images/json",
            &format!("/images/json?shared-size=1&filters=%7B%22reference%22:%5B%22{name}%22%5D%7D"),
        );
        self.get("GET /images/{name}/json", &format!("/images/{name}:1/json"));
    }

    pub fn networks_and_volumes(&mut self) {
        let v = format!("v{}", self.version);
        let body = json!({ "Name": v, "Labels": { "of": "test" } });
        self.ask(201, "POST /networks/create", "/networks/create", &body);
        self.ask(201, "POST /volumes/create", "/volumes/create", &body);
        self.ask(201, "POST /volumes/create", "/volumes/create", &json!({}));
        let idle = json!({ "Container": "idle" });
        self.ask(
            200,
            "POST /networks/{id}/connect",
            &format!("/networks/{v}/connect"),
            &idle,
        );
        self.get("GET /containers/{id}/json", "/containers/idle/json");
        self.ask(
            200,
            "POST /networks/{id}/disconnect",
            &format!("/networks/{v}/disconnect"),
            &idle,
        );
    }

    /// What is wrong, in the form of errors.
    pub fn refused(&mut self) {
        for (status, endpoint, path, body) in [
            (
                400,
                "GET /containers/json",
                "/containers/json?filters=x",
                Value::Null,
            ),
            (
                404,
                "GET /containers/{id}/json",
                "/containers/nope/json",
                Value::Null,
            ),
            (
                400,
                "POST /containers/create",
                "/containers/create",
                json!({ "Image": "bb", "HostConfig": { "Memory": 1 } }),
            ),
            (
                404,
                "POST /containers/create",
                "/containers/create",
                json!({ "Image": "nope", "Cmd": ["x"] }),
            ),
            (
                409,
                "POST /containers/create",
                "/containers/create?name=web",
                json!({ "Image": "bb" }),
            ),
            (
                409,
                "POST /containers/{id}/kill",
                "/containers/idle/kill",
                Value::Null,
            ),
            (
                409,
                "DELETE /containers/{id}",
                "/containers/web",
                Value::Null,
            ),
            (
                404,
                "GET /images/{name}/json",
                "/images/nope/json",
                Value::Null,
            ),
            (409, "DELETE /images/{name}", "/images/bb", Value::Null),
            (404, "GET /networks/{id}", "/networks/nope", Value::Null),
            (
                403,
                "DELETE /networks/{id}",
                "/networks/bridge",
                Value::Null,
            ),
            (404, "GET /volumes/{name}", "/volumes/nope", Value::Null),
            (409, "DELETE /volumes/{name}", "/volumes/data", Value::Null),
            (404, "GET /exec/{id}/json", "/exec/nope/json", Value::Null),
            (503, "GET /swarm", "/swarm", Value::Null),
        ] {
            self.ask(status, endpoint, path, &body);
        }
    }

    pub fn prunes(&mut self) {
        let v = self.version.to_owned();
        let gone = self.ask(
            200,
            "DELETE /images/{name}",
            &format!("/images/v{v}"),
            &Value::Null,
        );
        assert!(gone.text().contains("Untagged"), "{}", gone.text());
        let one = |label: &str| format!("?filters=%7B%22label%22:%5B%22{label}%22%5D%7D");
        let body = json!({ "Image": "bb", "Cmd": ["true"], "Labels": { "prune": "me" } });
        self.ask(201, "POST /containers/create", "/containers/create", &body);
        self.ask(
            200,
            "POST /containers/prune",
            &format!("/containers/prune{}", one("prune=me")),
            &Value::Null,
        );
        self.ask(200, "POST /networks/prune", "/networks/prune", &Value::Null);
        self.ask(200, "POST /volumes/prune", "/volumes/prune", &Value::Null);
        self.ask(200, "POST /images/prune", "/images/prune", &Value::Null);
        self.ask(200, "POST /build/prune", "/build/prune", &Value::Null);
        let auth = json!({ "username": "me", "password": "p", "serveraddress": "127.0.0.1:5000" });
        self.ask(200, "POST /auth", "/auth", &auth);
    }
}
