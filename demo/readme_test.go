package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/compose-spec/compose-go/v2/types"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/continuwuity/wellknown/demo/internal/stack"
	"github.com/continuwuity/wellknown/testdata/cases"
)

// snippet is a fenced block of the README. What stands behind the language says how it is tested.
type snippet struct {
	language, kind, argument, text string
}

func snippets(t *testing.T) []snippet {
	t.Helper()
	found := []snippet{}
	fence := regexp.MustCompile("(?ms)^```([^\n]+)\n(.*?)^```$")
	for _, match := range fence.FindAllStringSubmatch(string(read(t, "README.md")), -1) {
		words := append(strings.Fields(match[1]), "", "")
		found = append(found, snippet{words[0], words[1], words[2], match[2]})
	}
	require.NotEmpty(t, found)
	return found
}

// ofKind returns the snippets of a kind, of which the README has so many.
func ofKind(t *testing.T, kind string, count int) []snippet {
	t.Helper()
	found := []snippet{}
	for _, s := range snippets(t) {
		if s.kind == kind {
			found = append(found, s)
		}
	}
	require.Len(t, found, count, kind)
	return found
}

// TestREADMEHasNoOtherSnippets makes a new kind of snippet bring its test with it.
func TestREADMEHasNoOtherSnippets(t *testing.T) {
	for _, s := range snippets(t) {
		assert.Contains(t, []string{"compose", "env", "run", "GET", "static", "dynamic", "labels", "log", "curl"}, s.kind, s.text)
	}
}

// TestREADMECopies compares what stands in the README and in a file too.
func TestREADMECopies(t *testing.T) {
	for _, s := range append(ofKind(t, "compose", 2)[:1], ofKind(t, "env", 1)...) {
		require.NotEmpty(t, s.argument)
		assert.Equal(t, string(read(t, s.argument)), s.text, s.argument)
	}
}

// TestProduction runs the compose example with its own flags and labels, the plugin coming from the
// catalog, beside a website that has the rest of the base domain.
func TestProduction(t *testing.T) {
	project, err := stack.Load(t.Context(), root("demo", "production", "docker-compose.yml"))
	require.NoError(t, err)
	homeserver, website := echoServer(t), echoServer(t)
	containers := pointedTo(t, homeserver, stack.Containers(project))
	containers = append(containers, stack.Container{Name: "website", Labels: map[string]string{
		"traefik.enable":                                                        "true",
		"traefik.http.routers.website.rule":                                     "Host(`example.com`)",
		"traefik.http.routers.website.entrypoints":                              "websecure",
		"traefik.http.routers.website.tls":                                      "true",
		"traefik.http.services.website.loadbalancer.server.port":                port(t, website),
		"traefik.http.middlewares.mark.headers.customresponseheaders.X-Website": "yes",
		"traefik.http.routers.website.middlewares":                              "mark",
	}})
	flags := append(stack.Flags(project), "--certificatesresolvers.letsencrypt.acme.storage=acme.json")
	traefik := launch(t, containers, "website@docker", serveCatalog(t), flags...)
	require.Eventually(t, func() bool { return traefik.router(t, "continuwuity").Status == "enabled" }, 20*time.Second, 50*time.Millisecond, traefik.log)

	for _, s := range ofKind(t, "GET", 3) {
		response, body := traefik.getTLS(t, "example.com", s.argument)
		assert.Equal(t, http.StatusOK, response.StatusCode)
		assert.JSONEq(t, s.text, body)
		assert.Equal(t, "*", response.Header.Get("Access-Control-Allow-Origin"))
		response, matrix := traefik.getTLS(t, "matrix.example.com", s.argument)
		assert.Equal(t, http.StatusOK, response.StatusCode)
		assert.Equal(t, body, matrix)
	}
	for _, s := range ofKind(t, "curl", 1) {
		for _, line := range strings.Split(strings.TrimSpace(s.text), "\n") {
			path, ok := strings.CutPrefix(line, "curl -i https://example.com")
			require.True(t, ok, line)
			response, _ := traefik.getTLS(t, "example.com", path)
			assert.Equal(t, http.StatusOK, response.StatusCode)
		}
	}
	response, _ := traefik.getTLS(t, "matrix.example.com", "/_matrix/client/versions")
	assert.Equal(t, "GET /_matrix/client/versions", response.Header.Get("X-Echo"))
	assert.Empty(t, response.Header.Get("X-Website"))
	for _, path := range []string{"/", "/.well-known/matrix", "/.well-known/security.txt", "/_matrix/client/versions"} {
		response, _ = traefik.getTLS(t, "example.com", path)
		assert.Equal(t, "yes", response.Header.Get("X-Website"), path)
	}
	response, _ = traefik.get(t, "example.com", "/.well-known/matrix/server")
	assert.Equal(t, http.StatusMovedPermanently, response.StatusCode, "HTTP leads to HTTPS")
	assert.True(t, strings.HasPrefix(response.Header.Get("Location"), "https://example.com"), response.Header.Get("Location"))
}

// TestREADMEStandalone runs the compose example with the labels on a container that always runs.
func TestREADMEStandalone(t *testing.T) {
	project := load(t, ofKind(t, "compose", 2)[1].text)
	homeserver := echoServer(t)
	traefik := launch(t, pointedTo(t, homeserver, stack.Containers(project)), "delegation@docker", serveCatalog(t), stack.Flags(project)...)
	_, body := traefik.getTLS(t, "example.com", "/.well-known/matrix/server")
	assert.JSONEq(t, `{"m.server":"matrix.example.com:443"}`, body)
	response, body := traefik.getTLS(t, "example.com", "/.well-known/matrix/support")
	assert.Equal(t, http.StatusNotFound, response.StatusCode)
	assert.Contains(t, body, "M_NOT_FOUND")
	response, _ = traefik.getTLS(t, "matrix.example.com", "/_matrix/client/versions")
	assert.Equal(t, "GET /_matrix/client/versions", response.Header.Get("X-Echo"))

	// Without the homeserver's container the documents stay. Without standalone it is 418.
	only := []stack.Container{}
	for _, c := range stack.Containers(project) {
		if c.Name == "traefik" {
			only = append(only, c)
			other := maps.Clone(c.Labels)
			delete(other, "traefik.http.middlewares.delegation.plugin.wellknown.standalone")
			only[0].Labels = other
		}
	}
	traefik.docker.Set(only...)
	require.Eventually(t, func() bool {
		response, _ := traefik.getTLS(t, "example.com", "/.well-known/matrix/support")
		return response.StatusCode == http.StatusTeapot
	}, 20*time.Second, 50*time.Millisecond)
	response, _ = traefik.getTLS(t, "example.com", "/.well-known/matrix/server")
	assert.Equal(t, http.StatusOK, response.StatusCode)
}

// TestREADMEConfigurationFiles runs both ways to enable the plugin, with the middleware in a file.
func TestREADMEConfigurationFiles(t *testing.T) {
	homeserver := echoServer(t)
	dynamic := ofKind(t, "dynamic", 1)[0].text
	require.Contains(t, dynamic, "http://127.0.0.1:8008")
	dynamic = strings.ReplaceAll(dynamic, "127.0.0.1:8008", homeserver.Listener.Addr().String())
	for _, s := range ofKind(t, "static", 2) {
		t.Run(s.argument, func(t *testing.T) {
			dir := t.TempDir()
			dynamicFile, staticFile := filepath.Join(dir, "dynamic.yml"), filepath.Join(dir, "traefik.yml")
			require.NoError(t, os.WriteFile(dynamicFile, []byte(dynamic), 0o600))
			api, web := freeAddress(t), freeAddress(t)
			static := s.text + "entryPoints:\n  web:\n    address: " + web + "\n  traefik:\n    address: " + api +
				"\napi:\n  insecure: true\nproviders:\n  file:\n    filename: " + dynamicFile + "\n"
			require.NoError(t, os.WriteFile(staticFile, []byte(static), 0o600))
			traefik := launchFile(t, staticFile, web, api, serveCatalog(t))
			for path, want := range map[string]string{
				"server":  `{"m.server":"matrix.example.com:443"}`,
				"client":  `{"m.homeserver":{"base_url":"https://matrix.example.com/"},"org.matrix.msc3575.proxy":{"url":"https://matrix.example.com/"},"org.matrix.msc4143.rtc_foci":[{"type":"livekit","livekit_service_url":"https://livekit.example.com"}]}`,
				"support": `{"contacts":[{"role":"m.role.admin","email_address":"admin@example.com"},{"role":"m.role.security","matrix_id":"@security:example.com"}]}`,
				"mautrix": `{"fi.mau.bridges":["https://bridges.example.com"]}`,
			} {
				_, body := traefik.get(t, "example.com", "/.well-known/matrix/"+path)
				assert.JSONEq(t, want, body, path)
			}
			response, _ := traefik.get(t, "matrix.example.com", "/_matrix/client/versions")
			assert.Equal(t, "GET /_matrix/client/versions", response.Header.Get("X-Echo"))
		})
	}
}

// TestREADMELabels runs each list of labels, completed with what the example has.
func TestREADMELabels(t *testing.T) {
	const client = `{"m.homeserver":{"base_url":"https://matrix.example.com/"},"org.matrix.msc3575.proxy":{"url":"https://matrix.example.com/"}}`
	// What is served on example.com; "" is forwarded to the homeserver.
	want := []map[string]string{
		{
			"/.well-known/matrix/client":  `{"io.element.e2ee":{"force_disable":true},"org.example.price":"5 $","org.matrix.msc4143.rtc_foci":[{"type":"livekit","livekit_service_url":"https://livekit.example.com"},{"type":"livekit","livekit_service_url":"https://livekit.example.org"}],` + client[1:],
			"/.well-known/matrix/support": `{"contacts":[{"role":"m.role.admin","email_address":"admin@example.com"},{"role":"m.role.security","matrix_id":"@security:example.com"}]}`,
			"/.well-known/matrix/mautrix": `{"fi.mau.bridges":["https://bridges.example.com"]}`,
			"/.well-known/matrix/server":  "",
		},
		{"/.well-known/matrix/client": client, "/.well-known/matrix/server": "", "/_matrix/federation/v1/version": ""},
		{"/.well-known/matrix/client": client, "/.well-known/matrix/server": `{"m.server":"matrix.example.com"}`},
		{
			"/.well-known/matrix/client":     strings.ReplaceAll(client, "matrix.example.com", "example.com"),
			"/.well-known/matrix/server":     `{"m.server":"example.com:443"}`,
			"/_matrix/federation/v1/version": "",
		},
	}
	blocks := ofKind(t, "labels", 5)
	for i, documents := range want {
		require.Empty(t, blocks[i].argument)
		traefik := startTraefik(t, []stack.Container{completed(t, blocks[i])}, localMode)
		for path, body := range documents {
			response, got := traefik.get(t, "example.com", path)
			if body == "" {
				assert.Equal(t, "GET "+path, response.Header.Get("X-Echo"))
			} else {
				assert.JSONEq(t, body, got, path)
			}
		}
	}
}

// TestREADMEWrongLabels compares the log, and sees the router come back without a restart.
func TestREADMEWrongLabels(t *testing.T) {
	block := ofKind(t, "labels", 5)[4]
	require.Equal(t, "wrong", block.argument)
	wrong := completed(t, block)
	wrong.Labels["traefik.http.routers.continuwuity.entrypoints"] = "websecure"
	traefik := startTraefik(t, []stack.Container{wrong}, localMode)
	line := strings.TrimSpace(ofKind(t, "log", 1)[0].text)
	require.Eventually(t, func() bool { return strings.Contains(traefik.log.String(), line) }, 10*time.Second, 50*time.Millisecond, traefik.log)
	assert.Equal(t, "disabled", traefik.router(t, "continuwuity").Status)

	right := wrong
	right.Labels = maps.Clone(wrong.Labels)
	maps.Copy(right.Labels, labels("delegation", []string{"server=matrix.example.com:443", "client=https://matrix.example.com"}))
	delete(right.Labels, "traefik.http.middlewares.delegation.plugin.wellknown.suportEmail")
	traefik.docker.Set(right)
	require.Eventually(t, func() bool { return traefik.router(t, "continuwuity").Status == "enabled" }, 20*time.Second, 50*time.Millisecond, traefik.log)

	// What the README says of the values that Traefik itself refuses.
	readme := string(read(t, "README.md"))
	for option, said := range map[string]string{"cacheMaxAge=1h": "cannot parse 'CacheMaxAge' as int", "slidingSync=no": "cannot parse 'SlidingSync' as bool"} {
		assert.Contains(t, readme, "`"+option+"` gives `"+said+"`")
		bad := right
		bad.Labels = maps.Clone(right.Labels)
		maps.Copy(bad.Labels, labels("delegation", []string{option}))
		traefik.docker.Set(bad)
		require.Eventually(t, func() bool { return strings.Contains(traefik.log.String(), said) }, 20*time.Second, 50*time.Millisecond, traefik.log)
	}
	// And of a plugin that is not enabled under its name.
	other := startTraefik(t, []stack.Container{right}, strings.Replace(localMode, ".wellknown.", ".other.", 1))
	assert.Contains(t, readme, "`unknown plugin type: wellknown` in the log")
	require.Eventually(t, func() bool { return strings.Contains(other.log.String(), "unknown plugin type: wellknown") }, 10*time.Second, 50*time.Millisecond, other.log)
}

// TestDemo runs the README's command for the demo without Docker, as a user does, and interrupts it.
func TestDemo(t *testing.T) {
	commands := ofKind(t, "run", 3)
	command := exec.Command("sh", "-c", "exec "+strings.TrimSpace(commands[1].text))
	require.Equal(t, "exec go -C demo run .", command.Args[2])
	command.Dir = root()
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // an own group, as at a terminal
	output, err := command.StdoutPipe()
	require.NoError(t, err)
	command.Stderr = command.Stdout
	require.NoError(t, command.Start())
	defer func() { _ = syscall.Kill(-command.Process.Pid, syscall.SIGKILL) }()

	printed := strings.Builder{}
	for scanner := bufio.NewScanner(output); scanner.Scan(); {
		printed.WriteString(scanner.Text() + "\n")
		if strings.Contains(scanner.Text(), "Ctrl-C") {
			require.Error(t, stack.CheckFree("8080", "the demo"), "the demo is serving")
			require.NoError(t, syscall.Kill(-command.Process.Pid, syscall.SIGINT))
		}
	}
	t.Log(printed.String())
	_ = command.Wait() // 1 from go run, whenever it is interrupted
	assert.NotContains(t, printed.String(), "demo:", "errors")
	for _, line := range []string{
		"$ curl -i http://example.localhost:8080/.well-known/matrix/server",
		`{"m.server":"matrix.example.localhost:8080"}`,
		`{"m.homeserver":{"base_url":"http://matrix.example.localhost:8080/"},"org.matrix.msc3575.proxy":{"url":"http://matrix.example.localhost:8080/"}}`,
		`{"contacts":[{"email_address":"admin@example.localhost","matrix_id":"@admin:example.localhost","role":"m.role.admin"}]}`,
		"$ curl -i http://matrix.example.localhost:8080/_matrix/client/versions",
		`{"versions":[`,
		"Stopping Traefik and the homeserver.",
	} {
		assert.Contains(t, printed.String(), line)
	}
	require.NoError(t, stack.CheckFree("8080", "the demo"), "nothing is left")
	require.NoError(t, stack.CheckFree(homeserverPort, "the demo"), "nothing is left")
}

// TestDemoPortInUse looks at what a user is told.
func TestDemoPortInUse(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:8080")
	require.NoError(t, err)
	defer listener.Close()
	var out bytes.Buffer
	err = run(t.Context(), &out, false)
	require.ErrorContains(t, err, "port 8080, which Traefik (PORT in demo/.env) needs, is in use: stop what listens there")
	assert.NotContains(t, err.Error(), "\n")
	assert.Empty(t, out.String())
}

// load reads a compose file from its text.
func load(t *testing.T, text string) *types.Project {
	t.Helper()
	path := filepath.Join(t.TempDir(), "docker-compose.yml")
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	project, err := stack.Load(t.Context(), path)
	require.NoError(t, err)
	return project
}

// completed makes a container of a list of labels and of what goes without saying.
func completed(t *testing.T, s snippet) stack.Container {
	t.Helper()
	indented := "  " + strings.ReplaceAll(strings.TrimSpace(s.text), "\n", "\n    ")
	project := load(t, "services:\n  continuwuity:\n    image: continuwuity\n  "+indented+"\n")
	container := pointedTo(t, echoServer(t), stack.Containers(project))[0]
	all := map[string]string{
		"traefik.enable":                                "true",
		"traefik.http.routers.continuwuity.rule":        "Host(`matrix.example.com`) || (Host(`example.com`) && PathPrefix(`/.well-known/matrix/`))",
		"traefik.http.routers.continuwuity.middlewares": "delegation",
	}
	maps.Copy(all, container.Labels)
	container.Labels = all
	return container
}

func echoServer(t *testing.T) *httptest.Server {
	t.Helper()
	server := httptest.NewServer(cases.Echo)
	t.Cleanup(server.Close)
	return server
}

func port(t *testing.T, server *httptest.Server) string {
	t.Helper()
	_, port, err := net.SplitHostPort(server.Listener.Addr().String())
	require.NoError(t, err)
	return port
}

// pointedTo leads the service continuwuity to a server of the test: outside of a network of Docker's,
// port 8008 is not the container's own.
func pointedTo(t *testing.T, server *httptest.Server, containers []stack.Container) []stack.Container {
	t.Helper()
	for i, c := range containers {
		if c.Name == "continuwuity" {
			containers[i].Labels = maps.Clone(c.Labels)
			containers[i].Labels["traefik.http.services.continuwuity.loadbalancer.server.port"] = port(t, server)
		}
	}
	return containers
}

// getTLS does not check the certificate, which is Traefik's own here.
func (r *running) getTLS(t *testing.T, host, path string) (*http.Response, string) {
	t.Helper()
	client := &http.Client{
		Timeout: 10 * time.Second,
		Transport: &http.Transport{
			TLSClientConfig:   &tls.Config{InsecureSkipVerify: true},
			DisableKeepAlives: true,
			DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, network, r.websecure)
			},
		},
	}
	response, err := client.Get("https://" + host + path)
	require.NoError(t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return response, string(body)
}
