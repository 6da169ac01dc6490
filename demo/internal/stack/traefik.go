// Package stack runs what the compose files describe where there is no Docker: real Traefik with
// the plugin of this checkout, fed with the compose file's own flags and labels, and a homeserver.
package stack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/continuwuity/wellknown/demo/internal/tools"
)

const module = "github.com/continuwuity/wellknown"

// Process is a server that was started.
type Process struct {
	cmd  *exec.Cmd
	dir  string
	done chan struct{} // closed when it has ended
}

// StartTraefik starts Traefik with the given static configuration, in a folder of its own in which
// the plugin lies where local mode looks for it. docker may be nil.
func StartTraefik(binary string, log io.Writer, docker *Docker, flags []string, environment ...string) (*Process, error) {
	dir, err := os.MkdirTemp("", "wellknown-traefik-*")
	if err != nil {
		return nil, err
	}
	if err := Install(filepath.Join(dir, "plugins-local", "src", filepath.FromSlash(module))); err != nil {
		return nil, err
	}
	if docker != nil {
		flags = append(flags[:len(flags):len(flags)], "--providers.docker.endpoint="+docker.endpoint,
			"--global.checknewversion=false", "--global.sendanonymoususage=false")
	}
	// The provider's client would follow these instead of its endpoint.
	environment = append(environment[:len(environment):len(environment)], "DOCKER_HOST=", "DOCKER_CERT_PATH=")
	return start(dir, log, environment, binary, flags...)
}

// Install copies what Traefik reads of the plugin.
func Install(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, name := range []string{".traefik.yml", "go.mod", "wellknown.go"} {
		content, err := os.ReadFile(filepath.Join(tools.Dir(), "..", name))
		if err != nil {
			return fmt.Errorf("the plugin is not where it should be, beside demo/: %w", err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// start runs a program in a folder that is removed when it stops.
func start(dir string, log io.Writer, environment []string, program string, args ...string) (*Process, error) {
	cmd := exec.Command(program, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), environment...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		_ = os.RemoveAll(dir)
		return nil, err
	}
	p := &Process{cmd: cmd, dir: dir, done: make(chan struct{})}
	go func() {
		_ = cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// Stop ends the process, at first politely, and removes its folder.
func (p *Process) Stop() {
	if p.cmd.Process.Signal(os.Interrupt) != nil { // Windows has no such signal
		_ = p.cmd.Process.Kill()
	}
	select {
	case <-p.done:
	case <-time.After(10 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.done
	}
	_ = os.RemoveAll(p.dir)
}

// PID is the process's number.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Ended is closed when the process has ended by itself or was stopped.
func (p *Process) Ended() <-chan struct{} { return p.done }

// Wait asks until the answer to a GET on an address, for a host, is what is wanted.
func (p *Process) Wait(ctx context.Context, address, host, path string, want int) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		response, err := Get(ctx, address, host, path)
		if err == nil {
			_ = response.Body.Close()
			if response.StatusCode == want {
				return nil
			}
			err = errors.New(response.Status)
		}
		select {
		case <-p.done:
			return errors.New("it ended by itself; its last lines say why")
		case <-ctx.Done():
			return fmt.Errorf("no good answer from http://%s%s on %s: %w", host, path, address, err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// Get asks the server at an address, whatever the host's name resolves to.
func Get(ctx context.Context, address, host, path string) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+path, nil)
	if err != nil {
		return nil, err
	}
	request.Host = host
	return client.Do(request)
}

// client shows redirects instead of following them.
var client = &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}

// CheckFree tells whether a port of the loopback interface can be listened on.
func CheckFree(port, what string) error {
	listener, err := net.Listen("tcp", "127.0.0.1:"+port)
	if err != nil {
		return fmt.Errorf("port %s, which %s needs, is in use: stop what listens there (%w)", port, what, err)
	}
	return listener.Close()
}
