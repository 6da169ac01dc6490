package e2e

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/continuwuity/wellknown/demo/internal/stack"
)

// load asks at a steady rate for documents, which have to be right, and for something of the
// homeserver's, of which only the status is counted.
type load struct {
	project   *project
	domain    string
	documents map[string]string // by path
	host      string            // of the homeserver

	mu       sync.Mutex
	asked    int
	failures []failure
	statuses map[string]int
}

// failure is a document that was not what it should be.
type failure struct {
	at   time.Time
	what string
}

// The load is 64 clients, with some 600 documents and 20 Matrix requests a second between them.
const (
	clients = 64
	pause   = 320 * time.Millisecond
	matrix  = 50 * time.Millisecond
)

// startLoad takes the documents as they are now, and stops with the test.
func startLoad(t *testing.T, p *project, domain, host string, names ...string) *load {
	t.Helper()
	l := &load{project: p, domain: domain, documents: map[string]string{}, host: host, statuses: map[string]int{}}
	for _, name := range names {
		path := "/.well-known/matrix/" + name
		l.documents[path] = p.eventually(t, domain, path, http.StatusOK).body
	}
	p.eventually(t, host, "/_matrix/client/versions", http.StatusOK)

	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	t.Cleanup(func() {
		cancel()
		group.Wait()
	})
	every := func(interval time.Duration, ask func(context.Context)) {
		group.Go(func() {
			ticker := time.NewTicker(interval)
			defer ticker.Stop()
			for {
				select {
				case <-ctx.Done():
					return
				case <-ticker.C:
					ask(ctx)
				}
			}
		})
	}
	for range clients {
		every(pause, l.document)
	}
	every(matrix, l.homeserver)
	return l
}

// document asks for each document in turn.
func (l *load) document(ctx context.Context) {
	for path, want := range l.documents {
		wrong := l.check(ctx, path, want)
		if ctx.Err() != nil {
			return
		}
		l.mu.Lock()
		l.asked++
		if wrong != "" {
			l.failures = append(l.failures, failure{time.Now(), path + ": " + wrong})
		}
		l.mu.Unlock()
	}
}

func (l *load) check(ctx context.Context, path, want string) string {
	got, err := l.project.get(ctx, l.domain, path)
	switch {
	case err != nil:
		return err.Error()
	case got.status != http.StatusOK || got.body != want:
		return fmt.Sprint(got.status, " ", got.body)
	case !slices.Equal(got.header["Access-Control-Allow-Origin"], []string{"*"}):
		return fmt.Sprint("Access-Control-Allow-Origin: ", got.header["Access-Control-Allow-Origin"])
	}
	return ""
}

func (l *load) homeserver(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	status := "no answer in a second"
	if got, err := l.project.get(ctx, l.host, "/_matrix/client/versions"); err == nil {
		status = strconv.Itoa(got.status)
	}
	l.mu.Lock()
	l.statuses[status]++
	l.mu.Unlock()
}

// period is what became of the load while something happened.
type period struct {
	documents int
	failures  []failure
	statuses  map[string]int // of Matrix requests
}

// during watches the load while something happens, and for as long after it as Traefik may take to notice.
func (l *load) during(t *testing.T, what string, happens func()) period {
	t.Helper()
	l.mu.Lock()
	asked, failed, before := l.asked, len(l.failures), maps.Clone(l.statuses)
	l.mu.Unlock()
	start := time.Now()
	happens()
	time.Sleep(settled)

	l.mu.Lock()
	defer l.mu.Unlock()
	p := period{l.asked - asked, slices.Clone(l.failures[failed:]), map[string]int{}}
	for status, count := range l.statuses {
		if count -= before[status]; count > 0 {
			p.statuses[status] = count
		}
	}
	t.Logf("%s: %d documents, %d failures; Matrix requests by status: %v", what, p.documents, len(p.failures), p.statuses)
	if len(p.failures) > 0 {
		first, last := p.failures[0], p.failures[len(p.failures)-1]
		t.Logf("  from %s to %s: %s", first.at.Sub(start).Round(time.Millisecond), last.at.Sub(start).Round(time.Millisecond), first.what)
	}
	return p
}

// settled is longer than Traefik waits between two changes (providersThrottleDuration, 2s).
const settled = 5 * time.Second

const restarts = "services:\n  continuwuity:\n    restart: unless-stopped\n"

// TestOutages takes the homeserver away in each way that the README's two recipes are for.
func TestOutages(t *testing.T) {
	t.Run("allownonrunning", func(t *testing.T) {
		base, domain, host := demoProject(t, "outage")
		p := base.with(t, restarts)
		p.compose(t, "up", "--detach")
		l := startLoad(t, p, domain, host, "server", "client", "support")
		survive(t, l)

		// Compose keeps the old container, stopped, until the new one is there: for a moment Traefik
		// sees both, whose options differ, and takes neither. The README says so.
		changed := p.with(t, label(option+"cacheMaxAge=600"))
		gap := l.during(t, "another label", func() { changed.compose(t, "up", "--detach") })
		after := l.during(t, "afterwards", func() {})
		assert.Empty(t, after.failures)
		assert.Less(t, len(gap.failures), gap.documents/2)
		for _, f := range gap.failures {
			assert.Contains(t, f.what, "404 page not found")
		}
	})
	t.Run("always running", func(t *testing.T) {
		p := standaloneProject(t, "outage-standalone").with(t, restarts)
		p.compose(t, "up", "--detach")
		l := startLoad(t, p, "example.com", "matrix.example.com", "server", "client")
		survive(t, l)
		removed := l.during(t, "removed", func() { p.compose(t, "rm", "--force", "--stop", "continuwuity") })
		assert.Empty(t, removed.failures)
		assert.Positive(t, removed.statuses["404"], "the container is gone")
		created := l.during(t, "created again", func() { p.compose(t, "up", "--detach"); l.back(t) })
		assert.Empty(t, created.failures)
	})
}

// survive is what both recipes promise.
func survive(t *testing.T, l *load) {
	t.Helper()
	p := l.project
	for _, outage := range []struct {
		what    string
		happens func()
	}{
		{"killed", func() {
			pid, err := strconv.Atoi(p.inspect(t, "continuwuity", "{{.State.Pid}}"))
			require.NoError(t, err)
			require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
			time.Sleep(time.Second) // Docker starts it again
			l.back(t)
		}},
		{"stopped", func() { p.compose(t, "stop", "continuwuity") }},
		{"started", func() { p.compose(t, "start", "continuwuity"); l.back(t) }},
		{"restarted", func() { p.compose(t, "restart", "continuwuity"); l.back(t) }},
		{"replaced", func() { p.compose(t, "up", "--detach", "--force-recreate", "--no-deps", "continuwuity"); l.back(t) }},
	} {
		period := l.during(t, outage.what, outage.happens)
		assert.Empty(t, period.failures, outage.what)
		assert.Greater(t, period.documents, 1000, outage.what)
		assert.NotEqual(t, []string{"200"}, slices.Collect(maps.Keys(period.statuses)), "%s: the homeserver was not away", outage.what)
	}
}

// back waits until the homeserver answers.
func (l *load) back(t *testing.T) {
	t.Helper()
	l.project.eventually(t, l.host, "/_matrix/client/versions", http.StatusOK)
}

// TestReloads has Traefik read another configuration hundreds of times, because of a container that
// has nothing to do with Matrix.
func TestReloads(t *testing.T) {
	const reloads, warm = 500, 20
	base, domain, host := demoProject(t, "reloads")
	loaded, err := stack.Load(t.Context(), base.files[0])
	require.NoError(t, err)
	override := "services:\n  traefik:\n    ports:\n      - 127.0.0.1::9000\n    command:\n"
	for _, flag := range append(slices.Clone(loaded.Services["traefik"].Command),
		"--entrypoints.traefik.address=:9000", "--api.insecure=true", "--api.debug=true", "--metrics.prometheus=true", "--providers.providersthrottleduration=20ms") {
		override += "      - " + strings.ReplaceAll(flag, ":"+loaded.Environment["PORT"], ":${PORT}") + "\n"
	}
	p := base.with(t, override)
	p.compose(t, "up", "--detach")
	api := strings.TrimSpace(p.compose(t, "port", "traefik", "9000"))
	l := startLoad(t, p, domain, host, "server", "client", "support")

	image := loaded.Services["continuwuity"].Image
	network := p.name + "_default"
	change := func(n int) {
		name := p.name + "-other"
		output, err := cli(t.Context(), "run", "--detach", "--name", name, "--network", network, "--label", "com.docker.compose.project="+p.name,
			"--label", "traefik.enable=true", "--label", "traefik.http.routers.other.rule=Host(`"+strconv.Itoa(n)+".localhost`)",
			"--label", "traefik.http.services.other.loadbalancer.server.port=80", "--entrypoint", "/dendrite/dendrite", image, "-version")
		require.NoError(t, err, output)
		output, err = cli(t.Context(), "rm", "--force", name)
		require.NoError(t, err, output)
	}
	n := 0
	until := func(want int) {
		for ; metric(t, api, "traefik_config_reloads_total") < float64(want); n++ {
			change(n)
		}
	}
	until(warm)
	first := measure(t, api)
	period := l.during(t, "reloads", func() { until(warm + reloads) })
	require.Eventually(t, func() bool {
		last := measure(t, api)
		t.Logf("%d containers, %.0f reloads; before and after: %.1f and %.1f MB of heap, %.0f and %.0f goroutines", n,
			metric(t, api, "traefik_config_reloads_total"), first.heap/1e6, last.heap/1e6, first.goroutines, last.goroutines)
		// One configuration's worth of routers is some 100 KB.
		return last.heap < first.heap+4e6 && last.goroutines < first.goroutines+20
	}, time.Minute, 5*time.Second)
	assert.Empty(t, period.failures)
	assert.Equal(t, []string{"200"}, slices.Collect(maps.Keys(period.statuses)), "the homeserver was there all the time")
}

type measured struct{ heap, goroutines float64 }

// measure is what Traefik holds after a garbage collection.
func measure(t *testing.T, api string) measured {
	t.Helper()
	for range 2 { // what finalizers free is gone after the second
		_ = fetch(t, api, "/debug/pprof/heap?gc=1")
	}
	return measured{metric(t, api, "go_memstats_heap_alloc_bytes"), metric(t, api, "go_goroutines")}
}

// metric adds up a metric's values, whatever their labels.
func metric(t *testing.T, api, name string) float64 {
	t.Helper()
	total := 0.0
	for _, match := range regexp.MustCompile(`(?m)^`+name+`(?:\{.*\})? (.*)$`).FindAllStringSubmatch(fetch(t, api, "/metrics"), -1) {
		value, err := strconv.ParseFloat(match[1], 64)
		require.NoError(t, err)
		total += value
	}
	require.Positive(t, total, name)
	return total
}

func fetch(t *testing.T, address, path string) string {
	t.Helper()
	response, err := stack.Get(t.Context(), address, "localhost", path)
	require.NoError(t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return string(body)
}
