// Package e2e runs the compose files with the real Docker engine, docker compose and Traefik, and
// with Dendrite, a real homeserver, in Continuwuity's image.
package e2e

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/continuwuity/wellknown/demo/internal/stack"
	"github.com/continuwuity/wellknown/demo/internal/tools"
)

// mark is the label of the images that are made here. Others are never touched.
const mark = "wellknown.e2e"

func TestMain(m *testing.M) {
	code := m.Run()
	docker.remove()
	os.Exit(code)
}

// engine is this machine's Docker engine, with the images that the compose files name.
type engine struct {
	once   sync.Once
	config string   // DOCKER_CONFIG, for docker compose without the user's own folder
	images []string // to be removed
	failed string
}

var docker engine

// needEngine makes what all tests share, once.
func needEngine(t *testing.T) {
	t.Helper()
	if output, err := cli(t.Context(), "version", "--format", "{{.Server.Version}}"); err != nil {
		const missing = "no Docker engine: install docker.io and iptables, and start dockerd"
		if os.Getenv("CI") == "true" {
			require.NoError(t, err, missing)
		}
		t.Skipf("%s (%s)", missing, strings.TrimSpace(output))
	}
	docker.once.Do(func() {
		if err := docker.build(t); err != nil {
			docker.failed = err.Error()
		}
	})
	require.Empty(t, docker.failed)
}

// build makes the images that the demo's compose file names, from nothing, and installs docker compose.
func (e *engine) build(t *testing.T) error {
	ctx := t.Context()
	project, err := stack.Load(ctx, filepath.Join(tools.Dir(), "docker-compose.yml"))
	if err != nil {
		return err
	}
	compose, err := tools.Compose(ctx, t.Output())
	if err != nil {
		return err
	}
	traefik, err := tools.Traefik(ctx, t.Output())
	if err != nil {
		return err
	}
	dendrite, err := tools.Dendrite(ctx, t.Output())
	if err != nil {
		return err
	}

	// Not t.TempDir: it outlives the test that comes first.
	e.config, err = os.MkdirTemp("", "wellknown-e2e-*")
	if err != nil {
		return err
	}
	plugins := filepath.Join(e.config, "cli-plugins")
	if err := os.Mkdir(plugins, 0o755); err != nil {
		return err
	}
	if err := os.Symlink(compose, filepath.Join(plugins, "docker-compose")); err != nil {
		return err
	}

	homeserver := filepath.Join(e.config, "homeserver")
	build := exec.CommandContext(ctx, "go", "build", "-o", homeserver, "./e2e/homeserver")
	build.Dir = tools.Dir()
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("building the homeserver's start: %w: %s", err, output)
	}

	if err := e.image(ctx, project.Services["traefik"].Image, map[string]string{"/traefik": traefik},
		"WORKDIR /", "EXPOSE 80", `ENTRYPOINT ["/traefik"]`); err != nil {
		return err
	}
	files := map[string]string{"/sbin/conduwuit": homeserver}
	for _, name := range []string{"dendrite", "generate-keys", "generate-config", "create-account"} {
		files["/dendrite/"+name] = dendrite(name)
	}
	return e.image(ctx, project.Services["continuwuity"].Image, files, `CMD ["/sbin/conduwuit"]`)
}

// image builds an image of static programs, unless there is one by that name that is somebody's.
func (e *engine) image(ctx context.Context, name string, files map[string]string, lines ...string) error {
	switch output, err := cli(ctx, "image", "inspect", "--format", `{{index .Config.Labels "`+mark+`"}}`, name); {
	case err != nil && !strings.Contains(output, "No such image"):
		return fmt.Errorf("docker image inspect: %w: %s", err, output)
	case err == nil && strings.TrimSpace(output) != "true":
		return fmt.Errorf("the engine has an image %s that was not made here: remove it with docker rmi %s, or use another engine", name, name)
	}
	dir, err := os.MkdirTemp(e.config, "image-*")
	if err != nil {
		return err
	}
	dockerfile := "FROM scratch\nLABEL " + mark + "=true\n" + strings.Join(lines, "\n") + "\n"
	for to, from := range files {
		local := strings.ReplaceAll(to[1:], "/", "-")
		if err := link(from, filepath.Join(dir, local)); err != nil {
			return err
		}
		dockerfile += "COPY " + local + " " + to + "\n"
	}
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(dockerfile), 0o600); err != nil {
		return err
	}
	e.images = append(e.images, name)
	if output, err := cli(ctx, "build", "--tag", name, dir); err != nil {
		return fmt.Errorf("docker build %s: %w: %s", name, err, output)
	}
	return nil
}

// link puts a program into a build's folder, where links that lead out of it are not followed.
func link(from, to string) error {
	if os.Link(from, to) == nil {
		return nil
	}
	source, err := os.Open(from) // on another file system
	if err != nil {
		return err
	}
	defer source.Close()
	target, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(target, source)
	return errors.Join(err, target.Close())
}

// remove leaves no image behind that a user could take for Traefik's or Continuwuity's own.
func (e *engine) remove() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, name := range e.images {
		if output, err := cli(ctx, "rmi", name); err != nil {
			fmt.Fprintln(os.Stderr, "docker rmi:", output)
		}
	}
	if e.config != "" {
		_ = os.RemoveAll(e.config)
	}
}

// cli runs the docker command and returns all that it prints.
func cli(ctx context.Context, args ...string) (string, error) {
	output, err := exec.CommandContext(ctx, "docker", args...).CombinedOutput()
	return string(output), err
}

// project is a compose project that is taken down at the end of its test.
type project struct {
	name        string
	port        string // where Traefik is reached, on loopback
	files       []string
	environment []string
	scheme      string
	client      *http.Client
}

// newProject has a name and a port of its own, so that a demo that somebody runs is left alone.
func newProject(t *testing.T, name, file string, environment ...string) *project {
	t.Helper()
	needEngine(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	_, port, err := net.SplitHostPort(listener.Addr().String())
	require.NoError(t, err)
	require.NoError(t, listener.Close())
	p := &project{name: "wellknown-e2e-" + name, port: port, files: []string{file}, environment: append([]string{"PORT=" + port}, environment...)}
	p.speak("http", nil)
	p.down(t) // what an interrupted test left
	t.Cleanup(func() {
		if t.Failed() {
			output, _ := p.run(context.Background(), "logs", "--tail", "50", "--no-color")
			t.Log(output)
		}
		p.down(t)
	})
	return p
}

// with adds a file that overrides the others. It leaves the project itself as it is.
func (p *project) with(t *testing.T, override string) *project {
	t.Helper()
	path := filepath.Join(t.TempDir(), "override.yml")
	require.NoError(t, os.WriteFile(path, []byte(override), 0o600))
	other := *p
	other.files = append(slices.Clone(p.files), path)
	return &other
}

func (p *project) run(ctx context.Context, args ...string) (string, error) {
	all := []string{"compose", "--project-name", p.name}
	for _, file := range p.files {
		all = append(all, "--file", file)
	}
	cmd := exec.CommandContext(ctx, "docker", append(all, args...)...)
	cmd.Env = append(os.Environ(), "DOCKER_CONFIG="+docker.config)
	cmd.Env = append(cmd.Env, p.environment...)
	output, err := cmd.CombinedOutput()
	return string(output), err
}

// compose runs docker compose, and fails with what it said.
func (p *project) compose(t *testing.T, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	output, err := p.run(ctx, args...)
	require.NoError(t, err, "docker compose %s: %s", strings.Join(args, " "), output)
	return output
}

var colours = regexp.MustCompile("\x1b\\[[0-9;]*m")

// log is what a service has printed.
func (p *project) log(t *testing.T, service string) string {
	t.Helper()
	return colours.ReplaceAllString(p.compose(t, "logs", "--no-color", "--no-log-prefix", service), "")
}

// down also works when the test is over.
func (p *project) down(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	output, err := p.run(ctx, "down", "--volumes", "--remove-orphans", "--timeout", "5")
	require.NoError(t, err, output)
}

// left lists what the engine still has of the project.
func (p *project) left(t *testing.T) string {
	t.Helper()
	filter := "label=com.docker.compose.project=" + p.name
	all := ""
	for _, list := range [][]string{{"ps", "--all"}, {"network", "ls"}, {"volume", "ls"}} {
		output, err := cli(t.Context(), append(list, "--quiet", "--filter", filter)...)
		require.NoError(t, err, output)
		all += output
	}
	return all
}

// inspect tells of a service's container.
func (p *project) inspect(t *testing.T, service, format string) string {
	t.Helper()
	id := strings.TrimSpace(p.compose(t, "ps", "--all", "--quiet", service))
	require.NotEmpty(t, id, service)
	output, err := cli(t.Context(), "inspect", "--format", format, id)
	require.NoError(t, err, output)
	return strings.TrimSpace(output)
}

// speak makes the client that reaches Traefik whatever a host's name resolves to.
func (p *project) speak(scheme string, config *tls.Config) {
	p.scheme = scheme
	p.client = &http.Client{
		Timeout: 30 * time.Second,
		Transport: &http.Transport{
			TLSClientConfig:     config,
			MaxIdleConnsPerHost: 64,
			DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, network, "127.0.0.1:"+p.port)
			},
		},
	}
}

// answer is a response that was read to its end.
type answer struct {
	status int
	header http.Header
	body   string
}

func (p *project) get(ctx context.Context, host, path string) (*answer, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, p.scheme+"://"+host+path, nil)
	if err != nil {
		return nil, err
	}
	response, err := p.client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return &answer{response.StatusCode, response.Header, string(body)}, err
}

// eventually asks until the answer has a status, and returns that answer.
func (p *project) eventually(t *testing.T, host, path string, status int) *answer {
	t.Helper()
	var last *answer
	var err error
	require.Eventually(t, func() bool {
		// Traefik may still dial a container that has just gone, and would do so for 30 seconds.
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		last, err = p.get(ctx, host, path)
		return err == nil && last.status == status
	}, time.Minute, 100*time.Millisecond, "%s%s does not answer %d", host, path, status)
	return last
}
