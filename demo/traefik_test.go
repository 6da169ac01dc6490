package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/continuwuity/wellknown/demo/internal/stack"
	"github.com/continuwuity/wellknown/demo/internal/tools"
	"github.com/continuwuity/wellknown/testdata/cases"
)

// localMode enables the plugin of this checkout.
const localMode = "--experimental.localplugins.wellknown.modulename=" + plugin

// TestCasesInTraefik runs the table through a real Traefik process: a container for each case, with
// its labels, behind a host name of its own.
func TestCasesInTraefik(t *testing.T) {
	echo := httptest.NewServer(cases.Echo)
	defer echo.Close()
	containers := []stack.Container{}
	for i, c := range cases.All {
		containers = append(containers, container(t, fmt.Sprintf("case-%d", i), c.Labels, echo))
	}
	// Paths are to arrive as they were sent.
	traefik := startTraefik(t, containers, localMode, "--entrypoints.web.http.sanitizepath=false")
	for i, c := range cases.All {
		name := fmt.Sprintf("case-%d", i)
		t.Run(c.Name, func(t *testing.T) {
			router := traefik.router(t, name)
			if c.Errors != nil {
				assert.Equal(t, "disabled", router.Status)
				require.Len(t, router.Errors, 1)
				assert.Equal(t, c.Errors, strings.Split(router.Errors[0], "\n"))
				return
			}
			require.Equal(t, "enabled", router.Status, router.Errors)
			c.CheckServer(t, traefik.web, name+".test")
		})
	}
}

// container has the options as labels, and routes its own host name to a server of the test.
func container(t *testing.T, name string, options []string, behind *httptest.Server) stack.Container {
	t.Helper()
	_, port, err := net.SplitHostPort(behind.Listener.Addr().String())
	require.NoError(t, err)
	all := map[string]string{
		"traefik.enable":                                              "true",
		"traefik.http.routers." + name + ".rule":                      "Host(`" + name + ".test`)",
		"traefik.http.routers." + name + ".middlewares":               name,
		"traefik.http.services." + name + ".loadbalancer.server.port": port,
	}
	maps.Copy(all, labels(name, options))
	return stack.Container{Name: name, Labels: all}
}

// running is a Traefik that a test has started.
type running struct {
	web, websecure, api string // addresses
	docker              *stack.Docker
	log                 *stack.Log
}

type router struct {
	Status string   `json:"status"`
	Errors []string `json:"error"`
}

// startTraefik starts Traefik with the containers, if any, and waits for the last one's router.
func startTraefik(t *testing.T, containers []stack.Container, flags ...string) *running {
	t.Helper()
	return launch(t, containers, containers[len(containers)-1].Name+"@docker", nil, flags...)
}

// launch starts Traefik, with its entry points moved to free ports, and waits until it knows a router.
func launch(t *testing.T, containers []stack.Container, router string, environment []string, flags ...string) *running {
	t.Helper()
	binary, err := tools.Traefik(t.Context(), t.Output())
	require.NoError(t, err)
	r := &running{web: freeAddress(t), websecure: freeAddress(t), api: freeAddress(t), log: &stack.Log{}}
	if containers != nil {
		r.docker, err = stack.ServeDocker(containers...)
		require.NoError(t, err)
		t.Cleanup(r.docker.Close)
	}
	flags = append(flags[:len(flags):len(flags)], "--entrypoints.web.address="+r.web, "--entrypoints.websecure.address="+r.websecure,
		"--entrypoints.traefik.address="+r.api, "--api.insecure=true", "--log.nocolor=true",
		"--providers.docker.exposedbydefault=false")
	r.start(t, binary, router, flags, environment)
	return r
}

// launchFile starts Traefik with a static configuration in a file, which excludes flags.
func launchFile(t *testing.T, static, web, api string, environment []string) *running {
	t.Helper()
	binary, err := tools.Traefik(t.Context(), t.Output())
	require.NoError(t, err)
	r := &running{web: web, api: api, log: &stack.Log{}}
	r.start(t, binary, "continuwuity@file", []string{"--configfile=" + static}, environment)
	return r
}

func (r *running) start(t *testing.T, binary, router string, flags, environment []string) {
	t.Helper()
	process, err := stack.StartTraefik(binary, r.log, r.docker, flags, environment...)
	require.NoError(t, err)
	t.Cleanup(process.Stop)
	require.NoError(t, process.Wait(t.Context(), r.api, "localhost", "/api/http/routers/"+router, http.StatusOK), r.log)
}

// router is what Traefik's API, and so its dashboard, tells of a router.
func (r *running) router(t *testing.T, name string) router {
	t.Helper()
	var found router
	response, err := stack.Get(t.Context(), r.api, "localhost", "/api/http/routers/"+name+"@docker")
	require.NoError(t, err)
	defer response.Body.Close()
	require.NoError(t, json.NewDecoder(response.Body).Decode(&found))
	return found
}

func (r *running) get(t *testing.T, host, path string) (*http.Response, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	response, err := stack.Get(ctx, r.web, host, path)
	require.NoError(t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return response, string(body)
}

func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	return listener.Addr().String()
}
