// The demo without Docker: the stack of docker-compose.yml with real Traefik, built here, and with
// Dendrite in place of Continuwuity's image.
//
//	go -C demo run .
//
// With -build it only builds both, for the tests.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"github.com/continuwuity/wellknown/demo/internal/stack"
	"github.com/continuwuity/wellknown/demo/internal/tools"
)

func main() {
	ctx, _ := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	onlyBuild := flag.Bool("build", false, "build Traefik and the homeserver, and exit")
	flag.Parse()
	if err := run(ctx, os.Stdout, *onlyBuild); err != nil && ctx.Err() == nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// homeserverPort is that of the label loadbalancer.server.port.
const homeserverPort = "8008"

func run(ctx context.Context, out io.Writer, onlyBuild bool) error {
	project, err := stack.Load(ctx, filepath.Join(tools.Dir(), "docker-compose.yml"))
	if err != nil {
		return err
	}
	domain, host, port := project.Environment["DOMAIN"], project.Environment["MATRIX_HOST"], project.Environment["PORT"]
	if !onlyBuild { // before the minutes that building takes
		if err := stack.CheckFree(port, "Traefik (PORT in demo/.env)"); err != nil {
			return err
		}
		if err := stack.CheckFree(homeserverPort, "the homeserver"); err != nil {
			return err
		}
	}
	traefik, err := tools.Traefik(ctx, out)
	if err != nil {
		return err
	}
	dendrite, err := tools.Dendrite(ctx, out)
	if err != nil || onlyBuild {
		return err
	}

	logs := &lastLines{}
	homeserver, err := stack.StartHomeserver(dendrite, logs, domain, homeserverPort)
	if err != nil {
		return fmt.Errorf("starting the homeserver: %w", err)
	}
	defer homeserver.Stop()
	if err := homeserver.Wait(ctx, "127.0.0.1:"+homeserverPort, host, "/_matrix/client/versions", http.StatusOK); err != nil {
		return fmt.Errorf("starting the homeserver: %w\n%s", err, logs)
	}
	docker, err := stack.ServeDocker(stack.Containers(project)...)
	if err != nil {
		return err
	}
	defer docker.Close()
	proxy, err := stack.StartTraefik(traefik, logs, docker, stack.Flags(project))
	if err != nil {
		return fmt.Errorf("starting Traefik: %w", err)
	}
	defer proxy.Stop()
	address := "127.0.0.1:" + port
	if err := proxy.Wait(ctx, address, host, "/_matrix/client/versions", http.StatusOK); err != nil {
		return fmt.Errorf("starting Traefik: %w\n%s", err, logs)
	}

	fmt.Fprintf(out, `
Traefik, with the plugin from this checkout:  http://%[1]s:%[3]s and http://%[2]s:%[3]s
Dendrite, in place of Continuwuity, behind it: http://127.0.0.1:%[4]s
Both are configured by the labels and flags of demo/docker-compose.yml and the names in demo/.env.

Answered by the plugin, on the base domain:
`, domain, host, port, homeserverPort)
	for _, name := range []string{"server", "client", "support"} {
		if err := show(ctx, out, address, domain+":"+port, "/.well-known/matrix/"+name); err != nil {
			return err
		}
	}
	fmt.Fprintf(out, "\nForwarded to the homeserver:\n")
	if err := show(ctx, out, address, host+":"+port, "/_matrix/client/versions"); err != nil {
		return err
	}

	fmt.Fprintf(out, "\nServing until you press Ctrl-C.\n")
	select {
	case <-ctx.Done():
		fmt.Fprintf(out, "\nStopping Traefik and the homeserver.\n")
		return nil
	case <-proxy.Ended():
		return fmt.Errorf("the Traefik process ended by itself\n%s", logs)
	case <-homeserver.Ended():
		return fmt.Errorf("the homeserver ended by itself\n%s", logs)
	}
}

// show prints a request as a user would type it, and what comes back through Traefik.
func show(ctx context.Context, out io.Writer, address, host, path string) error {
	response, err := stack.Get(ctx, address, host, path)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "\n$ curl -i http://%s%s\n%s %s\n", host, path, response.Proto, response.Status)
	for _, name := range []string{"Access-Control-Allow-Origin", "Cache-Control", "Content-Type"} {
		if value := response.Header.Get(name); value != "" {
			fmt.Fprintf(out, "%s: %s\n", name, value)
		}
	}
	const most = 400
	if len(body) > most {
		body = append(body[:most], "…"...)
	}
	fmt.Fprintf(out, "\n%s\n", body)
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("http://%s%s answered %s instead of 200", host, path, response.Status)
	}
	return nil
}

// lastLines keeps the end of what the servers print, to be shown if one of them fails.
type lastLines struct {
	mu    sync.Mutex
	lines []string
}

func (l *lastLines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, strings.Split(strings.TrimSpace(string(p)), "\n")...)
	l.lines = l.lines[max(0, len(l.lines)-8):]
	return len(p), nil
}

func (l *lastLines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.lines, "\n")
}
