//go:build linux

package realworld

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/continuwuity/wellknown/demo/internal/stack"
	"github.com/continuwuity/wellknown/demo/internal/tools"
)

const (
	pluginFlag = "--experimental.localplugins.wellknown.modulename=github.com/continuwuity/wellknown"
	api        = "127.0.0.1:8080"
)

// traefik is a running Traefik.
type traefik struct {
	*stack.Process
	accessLog string // path
}

// file is the path of a file of the run.
func file(name string) string { return filepath.Join(os.Getenv(inside), name) }

// startTraefik starts Traefik and waits until all routers of the containers work.
func startTraefik(t *testing.T, containers []stack.Container, flags ...string) *traefik {
	t.Helper()
	binary, err := tools.Traefik(t.Context(), t.Output())
	require.NoError(t, err)
	docker, err := stack.ServeDocker(containers...)
	require.NoError(t, err)
	t.Cleanup(docker.Close)
	log := &stack.Log{}
	r := &traefik{accessLog: filepath.Join(t.TempDir(), "access.log")}
	r.Process, err = stack.StartTraefik(binary, log, docker, append(slices.Clone(flags), pluginFlag,
		"--providers.file.filename="+file("tls.yml"), "--providers.docker.exposedbydefault=false",
		"--entrypoints.traefik.address="+api, "--api.insecure=true", "--log.nocolor=true",
		"--accesslog=true", "--accesslog.format=json", "--accesslog.filepath="+r.accessLog))
	require.NoError(t, err)
	t.Cleanup(r.Stop)
	for _, c := range containers {
		for label := range c.Labels {
			name, ok := strings.CutSuffix(strings.TrimPrefix(label, "traefik.http.routers."), ".rule")
			if !ok {
				continue
			}
			require.NoError(t, r.Wait(t.Context(), api, "localhost", "/api/http/routers/"+name+"@docker", http.StatusOK), log)
			response, err := stack.Get(t.Context(), api, "localhost", "/api/http/routers/"+name+"@docker")
			require.NoError(t, err)
			var router struct {
				Status string   `json:"status"`
				Errors []string `json:"error"`
			}
			require.NoError(t, json.NewDecoder(response.Body).Decode(&router))
			require.NoError(t, response.Body.Close())
			require.Equal(t, "enabled", router.Status, router.Errors)
		}
	}
	return r
}

// access is a line of Traefik's access log.
type access struct {
	RequestHost      string
	RequestMethod    string
	RequestPath      string
	DownstreamStatus int
}

// accesses are the requests that Traefik has answered for a host since the last call, without order.
func (r *traefik) accesses(t *testing.T, host string) []string {
	t.Helper()
	content, err := os.ReadFile(r.accessLog)
	require.NoError(t, err)
	require.NoError(t, os.Truncate(r.accessLog, 0))
	found := []string{}
	for scanner := bufio.NewScanner(bytes.NewReader(content)); scanner.Scan(); {
		var a access
		require.NoError(t, json.Unmarshal(scanner.Bytes(), &a))
		if a.RequestHost == host {
			found = append(found, fmt.Sprintf("%s %s %d", a.RequestMethod, a.RequestPath, a.DownstreamStatus))
		}
	}
	slices.Sort(found)
	return found
}

// container has a router named like it, with labels given as option=value after traefik.http.
func container(name, rule, port string, labels ...string) stack.Container {
	all := map[string]string{
		"traefik.enable":                                              "true",
		"traefik.http.routers." + name + ".rule":                      rule,
		"traefik.http.services." + name + ".loadbalancer.server.port": port,
	}
	for _, label := range labels {
		key, value, _ := strings.Cut(label, "=")
		all["traefik.http."+key] = value
	}
	return stack.Container{Name: name, Labels: all}
}

// delegated is a container whose router has the plugin, with its options.
func delegated(name, rule, port string, options ...string) stack.Container {
	c := container(name, rule, port, "routers."+name+".middlewares="+name)
	for _, option := range options {
		key, value, _ := strings.Cut(option, "=")
		c.Labels["traefik.http.middlewares."+name+".plugin.wellknown."+key] = value
	}
	return c
}

// production is the README's example: its container of the homeserver, and Traefik's flags but for
// those by which it gets certificates and the plugin.
func production(t *testing.T) (stack.Container, []string) {
	t.Helper()
	project, err := stack.Load(t.Context(), filepath.Join(tools.Dir(), "production", "docker-compose.yml"))
	require.NoError(t, err)
	flags := []string{"--entrypoints.websecure.http.tls=true"}
	for _, flag := range project.Services["traefik"].Command {
		if !strings.Contains(flag, "certresolver") && !strings.Contains(flag, "certificatesresolvers") && !strings.Contains(flag, ".plugins.") {
			flags = append(flags, flag)
		}
	}
	require.Contains(t, flags, "--entrypoints.websecure.address=:443")
	for _, c := range stack.Containers(project) {
		if c.Name == "continuwuity" {
			c.Labels = maps.Clone(c.Labels)
			return c, flags
		}
	}
	t.Fatal("the production example has no homeserver")
	return stack.Container{}, nil
}

const password = "correct horse battery staple"

// startHomeserver starts a homeserver that has one account.
func startHomeserver(t *testing.T, domain, port, account string) {
	t.Helper()
	program, err := tools.Dendrite(t.Context(), t.Output())
	require.NoError(t, err)
	log := &stack.Log{}
	process, err := stack.StartHomeserver(program, log, domain, port)
	require.NoError(t, err)
	t.Cleanup(process.Stop)
	require.NoError(t, process.Wait(t.Context(), "127.0.0.1:"+port, domain, "/_matrix/client/versions", http.StatusOK), log)
	require.NoError(t, stack.CreateAccount(program, process, port, account, password), log)
}

// tlsFlags open port 443 with TLS.
var tlsFlags = []string{"--entrypoints.websecure.address=:443", "--entrypoints.websecure.http.tls=true"}

// everyDocument are options that fill every document, and everyBody is what they become.
var (
	everyDocument = []string{
		"server=matrix.example.com:443", "client=https://matrix.example.com", "supportEmail=admin@example.com",
		"policyServerPublicKey=6yhHGKhCiXTSEN2ksjV7kX_N6rBQZ3Xb-M7LlC6NS-s", `documents.mautrix={"fi.mau.bridges":[]}`,
	}
	everyBody = map[string]string{
		"server":        `{"m.server":"matrix.example.com:443"}`,
		"client":        `{"m.homeserver":{"base_url":"https://matrix.example.com/"},"org.matrix.msc3575.proxy":{"url":"https://matrix.example.com/"}}`,
		"support":       `{"contacts":[{"email_address":"admin@example.com","role":"m.role.admin"}]}`,
		"policy_server": `{"public_keys":{"ed25519":"6yhHGKhCiXTSEN2ksjV7kX_N6rBQZ3Xb-M7LlC6NS-s"}}`,
		"mautrix":       `{"fi.mau.bridges":[]}`,
	}
)

// port is where a server of the test listens.
func port(t *testing.T, listener net.Listener) string {
	t.Helper()
	_, port, err := net.SplitHostPort(listener.Addr().String())
	require.NoError(t, err)
	return port
}
