package e2e

import (
	"crypto/tls"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/continuwuity/wellknown/demo/internal/stack"
	"github.com/continuwuity/wellknown/demo/internal/tools"
)

const option = "traefik.http.middlewares.delegation.plugin.wellknown."

// demoProject is the demo's compose file as it is. PORT comes from the environment, which wins
// over demo/.env: other tests use the port that stands there.
func demoProject(t *testing.T, name string) (p *project, domain, host string) {
	t.Helper()
	file := filepath.Join(tools.Dir(), "docker-compose.yml")
	loaded, err := stack.Load(t.Context(), file)
	require.NoError(t, err)
	return newProject(t, name, file), loaded.Environment["DOMAIN"], loaded.Environment["MATRIX_HOST"]
}

// label overrides labels of the service continuwuity.
func label(labels ...string) string {
	override := "services:\n  continuwuity:\n    labels:\n"
	for _, l := range labels {
		override += "      - '" + l + "'\n"
	}
	return override
}

// becomes waits until a document is another one, and checks it.
func (p *project) becomes(t *testing.T, host, path, want string) {
	t.Helper()
	var last *answer
	require.Eventually(t, func() bool {
		var err error
		last, err = p.get(t.Context(), host, path)
		return err == nil && last.body == want
	}, time.Minute, 50*time.Millisecond, "%s%s does not become %s", host, path, want)
	checkDocument(t, last, want)
}

// checkDocument looks at an answer as a reader of the document does.
func checkDocument(t *testing.T, got *answer, want string) {
	t.Helper()
	assert.Equal(t, http.StatusOK, got.status)
	assert.JSONEq(t, want, got.body)
	assert.Equal(t, []string{"*"}, got.header["Access-Control-Allow-Origin"])
	assert.Equal(t, "application/json", got.header.Get("Content-Type"))
}

// TestDemoStack runs demo/docker-compose.yml as a user does, from up to down.
func TestDemoStack(t *testing.T) {
	p, domain, host := demoProject(t, "demo")
	p.compose(t, "up", "--detach")
	p.eventually(t, domain, "/.well-known/matrix/server", http.StatusOK)
	p.eventually(t, host, "/_matrix/client/versions", http.StatusOK)
	get := func(t *testing.T, host, path string) *answer {
		t.Helper()
		got, err := p.get(t.Context(), host, path)
		require.NoError(t, err)
		return got
	}

	t.Run("documents", func(t *testing.T) {
		base := "http://" + host + ":" + p.port + "/"
		for name, want := range map[string]string{
			"server":  `{"m.server":"` + host + `:` + p.port + `"}`,
			"client":  `{"m.homeserver":{"base_url":"` + base + `"},"org.matrix.msc3575.proxy":{"url":"` + base + `"}}`,
			"support": `{"contacts":[{"role":"m.role.admin","email_address":"admin@` + domain + `","matrix_id":"@admin:` + domain + `"}]}`,
		} {
			checkDocument(t, get(t, domain, "/.well-known/matrix/"+name), want)
			checkDocument(t, get(t, host, "/.well-known/matrix/"+name), want)
		}
	})

	t.Run("homeserver", func(t *testing.T) {
		assert.Contains(t, get(t, host, "/_matrix/client/versions").body, `"versions"`)
		assert.Contains(t, get(t, host, "/_matrix/key/v2/server").body, `"server_name":"`+domain+`"`)
		// The base domain has nothing but what Matrix needs of it.
		none := get(t, domain, "/.well-known/matrix/none")
		assert.Equal(t, http.StatusNotFound, none.status)
		assert.Contains(t, none.body, "M_UNRECOGNIZED", "of the homeserver")
		for _, path := range []string{"/", "/_matrix/client/versions", "/.well-known/security.txt"} {
			got := get(t, domain, path)
			assert.Equal(t, http.StatusNotFound, got.status, path)
			assert.Equal(t, "404 page not found\n", got.body, "of Traefik")
		}
	})

	const state = "{{.Id}} {{.State.StartedAt}} {{.RestartCount}}"
	traefik, homeserver := p.inspect(t, "traefik", state), p.inspect(t, "continuwuity", "{{.Id}}")

	t.Run("another label", func(t *testing.T) {
		changed := p.with(t, label(option+"server=other.example.org:8448"))
		changed.compose(t, "up", "--detach")
		p.becomes(t, domain, "/.well-known/matrix/server", `{"m.server":"other.example.org:8448"}`)
		assert.NotEqual(t, homeserver, changed.inspect(t, "continuwuity", "{{.Id}}"), "made again with its label")
		assert.Equal(t, traefik, changed.inspect(t, "traefik", state), "not touched")
	})

	t.Run("a wrong label", func(t *testing.T) {
		p.with(t, label(option+"server=https://"+host)).compose(t, "up", "--detach")
		p.eventually(t, domain, "/.well-known/matrix/server", http.StatusNotFound)
		require.Eventually(t, func() bool {
			return strings.Contains(p.log(t, "traefik"), ` ERR error="server='https://`+host+`': is a URL, but other servers want only host and port; write server=`+host+`:443" entryPointName=web routerName=continuwuity@docker`)
		}, 10*time.Second, 100*time.Millisecond)

		p.compose(t, "up", "--detach")
		p.becomes(t, domain, "/.well-known/matrix/server", `{"m.server":"`+host+`:`+p.port+`"}`)
		assert.Equal(t, traefik, p.inspect(t, "traefik", state), "not touched")
		p.eventually(t, host, "/_matrix/client/versions", http.StatusOK)
	})

	require.NotEmpty(t, p.left(t))
	p.compose(t, "down", "--volumes")
	assert.Empty(t, p.left(t), "nothing is left")
	require.NoError(t, stack.CheckFree(p.port, "the demo"))
}

// TestProductionConfig has docker compose read the production example with its .env.
func TestProductionConfig(t *testing.T) {
	p := newProject(t, "production", filepath.Join(tools.Dir(), "production", "docker-compose.yml"))
	config := p.compose(t, "config")
	assert.NotContains(t, config, "level=warning")
	for _, line := range []string{
		"CONTINUWUITY_SERVER_NAME: example.com",
		"traefik.http.routers.continuwuity.rule: Host(`matrix.example.com`) || (Host(`example.com`) && PathPrefix(`/.well-known/matrix/`))",
		option + "server: matrix.example.com:443",
		option + "client: https://matrix.example.com",
		"- --certificatesresolvers.letsencrypt.acme.email=admin@example.com",
	} {
		assert.Contains(t, config, line+"\n")
	}
}

// standaloneProject is the README's example with the labels on a container that always runs. Its
// plugin comes from this checkout instead of the catalog.
func standaloneProject(t *testing.T, name string, flags ...string) *project {
	t.Helper()
	readme, err := os.ReadFile(filepath.Join(tools.Dir(), "..", "README.md"))
	require.NoError(t, err)
	blocks := regexp.MustCompile("(?ms)^```yaml compose\n(.*?)^```$").FindAllSubmatch(readme, -1)
	require.Len(t, blocks, 1)
	file := filepath.Join(t.TempDir(), "docker-compose.yml")
	require.NoError(t, os.WriteFile(file, blocks[0][1], 0o600))
	loaded, err := stack.Load(t.Context(), file)
	require.NoError(t, err)

	const module = "github.com/continuwuity/wellknown"
	checkout, err := filepath.Abs(filepath.Join(tools.Dir(), ".."))
	require.NoError(t, err)
	override := "services:\n  traefik:\n    command: !override\n"
	for _, flag := range append(loaded.Services["traefik"].Command, flags...) {
		if !strings.HasPrefix(flag, "--experimental.plugins.") {
			override += "      - " + flag + "\n"
		}
	}
	override += "      - --experimental.localplugins.wellknown.modulename=" + module + `
    ports: !override
      - 127.0.0.1:${PORT}:443
    volumes:
      - ` + checkout + `:/plugins-local/src/` + module + `:ro
  continuwuity:
    environment:
      CONTINUWUITY_SERVER_NAME: example.com
      CONTINUWUITY_DATABASE_PATH: /var/lib/continuwuity
      CONTINUWUITY_ADDRESS: 0.0.0.0
      CONTINUWUITY_PORT: 8008
`
	p := newProject(t, name, file).with(t, override)
	p.speak("https", &tls.Config{InsecureSkipVerify: true}) // the certificate is Traefik's own
	return p
}

// TestStandalone runs the README's example, and takes the homeserver away from it.
func TestStandalone(t *testing.T) {
	p := standaloneProject(t, "standalone")
	p.compose(t, "up", "--detach")
	p.eventually(t, "matrix.example.com", "/_matrix/client/versions", http.StatusOK)
	for _, step := range [][]string{nil, {"stop", "continuwuity"}, {"rm", "--force", "continuwuity"}} {
		t.Run(strings.Join(step, " "), func(t *testing.T) {
			if step != nil {
				p.compose(t, step...)
				// Traefik has taken notice.
				p.eventually(t, "matrix.example.com", "/_matrix/client/versions", http.StatusNotFound)
			}
			checkDocument(t, p.eventually(t, "example.com", "/.well-known/matrix/server", http.StatusOK), `{"m.server":"matrix.example.com:443"}`)
			checkDocument(t, p.eventually(t, "example.com", "/.well-known/matrix/client", http.StatusOK),
				`{"m.homeserver":{"base_url":"https://matrix.example.com/"},"org.matrix.msc3575.proxy":{"url":"https://matrix.example.com/"}}`)
			none := p.eventually(t, "example.com", "/.well-known/matrix/support", http.StatusNotFound)
			assert.JSONEq(t, `{"errcode":"M_NOT_FOUND","error":"There is no such document here."}`, none.body)
		})
	}
	assert.Empty(t, strings.TrimSpace(p.compose(t, "ps", "--all", "--quiet", "continuwuity")))
	p.compose(t, "up", "--detach")
	p.eventually(t, "matrix.example.com", "/_matrix/client/versions", http.StatusOK)
}
