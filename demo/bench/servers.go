package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/continuwuity/wellknown/demo/internal/stack"
	"github.com/continuwuity/wellknown/demo/internal/tools"
)

// document is what the other servers are made to answer too, with the same headers.
const document = `{"m.server":"matrix.example.com:443"}`

const documentPath = "/.well-known/matrix/server"

type servers struct {
	dir                             string
	behind                          *http.Server
	commands                        []*exec.Cmd
	traefik, caddy, nginx           int // process ids
	traefikAddr, caddyAddr, ngxAddr string
}

func (s *servers) groups() []group {
	through := func(name, host, path string) *route {
		return &route{name: name, address: s.traefikAddr, host: host, path: path, pids: []int{s.traefik}}
	}
	const matrix = "/_matrix/client/v3/sync?timeout=0&since=s72594_4483_1934"
	return []group{
		{"forwarding a Matrix request", []*route{
			through("no middleware", "plain.test", matrix),
			through("Traefik's headers middleware", "headers.test", matrix),
			through("bare interpreted forward", "bare.test", matrix),
			through("wellknown", "wellknown.test", matrix),
		}},
		{"serving a document", []*route{
			through("ping@internal", "ping.test", "/ping"),
			through("wellknown", "wellknown.test", documentPath),
			through("bare interpreted answer", "answer.test", documentPath),
			{name: "Caddy respond", address: s.caddyAddr, host: "caddy.test", path: documentPath, pids: []int{s.caddy}},
			{name: "nginx return", address: s.ngxAddr, host: "nginx.test", path: documentPath, pids: []int{s.nginx}},
			through("proxied to the homeserver", "plain.test", documentPath),
		}},
	}
}

func (s *servers) stop() {
	for _, cmd := range s.commands {
		end(cmd)
	}
	if s.behind != nil {
		_ = s.behind.Close()
	}
	_ = os.RemoveAll(s.dir)
}

func startServers(ctx context.Context) (*servers, error) {
	dir, err := os.MkdirTemp("", "wellknown-bench-*")
	if err != nil {
		return nil, err
	}
	s := &servers{dir: dir}
	if err := s.start(ctx); err != nil {
		s.stop()
		return nil, err
	}
	return s, nil
}

func (s *servers) start(ctx context.Context) error {
	behind, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	// Stands for the homeserver; its own time is not counted.
	s.behind = &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Access-Control-Allow-Origin", "*")
		rw.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(rw, document)
	})}
	go func() { _ = s.behind.Serve(behind) }()

	for _, start := range []func(context.Context, string) error{s.startTraefik, s.startCaddy, s.startNginx} {
		if err := start(ctx, behind.Addr().String()); err != nil {
			return err
		}
	}
	return nil
}

func (s *servers) startTraefik(ctx context.Context, behind string) error {
	binary, err := tools.Traefik(ctx, os.Stderr)
	if err != nil {
		return err
	}
	sources := filepath.Join(s.dir, "plugins-local", "src")
	if err := stack.Install(filepath.Join(sources, "github.com", "continuwuity", "wellknown")); err != nil {
		return err
	}
	bare := os.DirFS(filepath.Join(tools.Dir(), "bench", "testdata", "bare"))
	if err := os.CopyFS(filepath.Join(sources, "example.org", "bare"), bare); err != nil {
		return err
	}
	dynamic := fmt.Sprintf(`
http:
  middlewares:
    headers: {headers: {customRequestHeaders: {X-Bench: "1"}}}
    bare: {plugin: {bare: {}}}
    answer: {plugin: {bare: {document: '%[3]s'}}}
    wellknown:
      plugin:
        wellknown:
          server: matrix.example.com:443
          client: https://matrix.example.com
          supportEmail: admin@example.com
  routers:
    plain: {rule: "Host(%[1]splain.test%[1]s)", service: homeserver}
    headers: {rule: "Host(%[1]sheaders.test%[1]s)", service: homeserver, middlewares: [headers]}
    bare: {rule: "Host(%[1]sbare.test%[1]s)", service: homeserver, middlewares: [bare]}
    answer: {rule: "Host(%[1]sanswer.test%[1]s)", service: homeserver, middlewares: [answer]}
    wellknown: {rule: "Host(%[1]swellknown.test%[1]s)", service: homeserver, middlewares: [wellknown]}
    ping: {rule: "Host(%[1]sping.test%[1]s)", service: ping@internal}
  services:
    homeserver: {loadBalancer: {servers: [{url: "http://%[2]s"}]}}
`, "`", behind, document)
	file := filepath.Join(s.dir, "dynamic.yml")
	if err := os.WriteFile(file, []byte(dynamic), 0o600); err != nil {
		return err
	}
	s.traefikAddr, s.traefik, err = s.spawn(ctx, "wellknown.test", documentPath, func(address string) *exec.Cmd {
		return exec.Command(binary, append(flags(address), "--providers.file.filename="+file,
			"--ping=true", "--ping.manualrouting=true", withPlugin,
			"--experimental.localplugins.bare.modulename=example.org/bare")...)
	})
	return err
}

const withPlugin = "--experimental.localplugins.wellknown.modulename=github.com/continuwuity/wellknown"

func flags(address string) []string {
	return []string{"--entrypoints.web.address=" + address, "--log.level=ERROR",
		"--global.checknewversion=false", "--global.sendanonymoususage=false"}
}

// startup is what a Traefik costs before its first request.
type startup struct {
	name    string
	seconds []float64 // until ping answers
	memory  []float64 // resident, in MB
}

// startups starts Traefik with and without the plugin, in turns.
func (s *servers) startups(ctx context.Context, rounds int) ([]*startup, error) {
	binary, err := tools.Traefik(ctx, os.Stderr)
	if err != nil {
		return nil, err
	}
	without, with := &startup{name: "without the plugin"}, &startup{name: "with the plugin"}
	for range rounds {
		for _, u := range []*startup{without, with} {
			start := time.Now()
			_, pid, err := s.spawn(ctx, "localhost", "/ping", func(address string) *exec.Cmd {
				all := append(flags(address), "--ping=true", "--ping.entrypoint=web")
				if u == with {
					all = append(all, withPlugin)
				}
				return exec.Command(binary, all...)
			})
			if err != nil {
				return nil, err
			}
			u.seconds = append(u.seconds, time.Since(start).Seconds())
			memory, err := resident(pid)
			if err != nil {
				return nil, err
			}
			u.memory = append(u.memory, memory)
			last := len(s.commands) - 1
			end(s.commands[last])
			s.commands = s.commands[:last]
		}
	}
	return []*startup{without, with}, nil
}

// resident is a process's resident memory in MB.
func resident(pid int) (float64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	_, after, _ := strings.Cut(string(status), "VmRSS:")
	kilobytes := 0.0
	_, err = fmt.Sscan(after, &kilobytes)
	return kilobytes / 1e3, err
}

func end(cmd *exec.Cmd) {
	_ = cmd.Process.Signal(os.Interrupt)
	_ = cmd.Wait()
}

func (s *servers) startCaddy(ctx context.Context, _ string) error {
	binary, err := tools.Caddy(ctx, os.Stderr)
	if err != nil {
		return err
	}
	s.caddyAddr, s.caddy, err = s.spawn(ctx, "caddy.test", documentPath, func(address string) *exec.Cmd {
		file := filepath.Join(s.dir, "Caddyfile")
		_ = os.WriteFile(file, []byte(fmt.Sprintf(`{
	admin off
	auto_https off
	storage file_system %[1]s/caddy
}
http://%[2]s {
	handle %[3]s {
		header {
			Access-Control-Allow-Origin *
			X-Content-Type-Options nosniff
			Content-Type application/json
			Cache-Control "public, max-age=3600"
			Etag "\"c294b7608037721b8b708b216a1f7907\""
		}
		respond %[4]s
	}
}
`, s.dir, port(address), documentPath, "`"+document+"`")), 0o600)
		return exec.Command(binary, "run", "--adapter", "caddyfile", "--config", file)
	})
	return err
}

func (s *servers) startNginx(ctx context.Context, _ string) error {
	binary, err := exec.LookPath("nginx")
	if err != nil {
		return fmt.Errorf("nginx is not installed: apt-get install nginx-light (%w)", err)
	}
	s.ngxAddr, s.nginx, err = s.spawn(ctx, "nginx.test", documentPath, func(address string) *exec.Cmd {
		file := filepath.Join(s.dir, "nginx.conf")
		// One process, no access log: nginx at its best.
		_ = os.WriteFile(file, []byte(fmt.Sprintf(`
daemon off;
master_process off;
pid %[1]s/nginx.pid;
error_log %[1]s/nginx.log;
events {}
http {
	access_log off;
	keepalive_requests 1000000;
	server {
		listen %[2]s;
		location = %[3]s {
			default_type application/json;
			add_header Access-Control-Allow-Origin *;
			add_header X-Content-Type-Options nosniff;
			add_header Cache-Control "public, max-age=3600";
			add_header Etag '"c294b7608037721b8b708b216a1f7907"';
			return 200 '%[4]s';
		}
	}
}
`, s.dir, address, documentPath, document)), 0o600)
		return exec.Command(binary, "-c", file, "-e", filepath.Join(s.dir, "nginx.log"))
	})
	return err
}

// spawn starts a server on a free port and waits until it answers.
func (s *servers) spawn(ctx context.Context, host, path string, command func(address string) *exec.Cmd) (string, int, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", 0, err
	}
	address := listener.Addr().String()
	_ = listener.Close()
	log := &strings.Builder{}
	cmd := command(address)
	cmd.Dir = s.dir
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return "", 0, err
	}
	s.commands = append(s.commands, cmd)
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		response, err := stack.Get(ctx, address, host, path)
		if err == nil {
			_ = response.Body.Close()
			if response.StatusCode == http.StatusOK {
				return address, cmd.Process.Pid, nil
			}
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			return "", 0, fmt.Errorf("%s does not answer: %s", filepath.Base(cmd.Path), log)
		}
	}
}

func port(address string) string {
	_, port, _ := net.SplitHostPort(address)
	return ":" + port
}
