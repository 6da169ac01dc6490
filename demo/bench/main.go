// The benchmarks through real Traefik: CPU time of the server's process for each request, with the
// routes taking turns in one run, so that whatever else the machine does meets all of them.
//
//	go -C demo run ./bench
//
// It writes results.txt and results.svg beside itself, or where -to says. What runs in process is in process_test.go.
package main

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/continuwuity/wellknown/demo/internal/tools"
)

func main() {
	rounds := flag.Int("rounds", 40, "how often each route takes its turn")
	requests := flag.Int("requests", 4000, "how many requests a turn has")
	connections := flag.Int("connections", 8, "how many connections send them")
	to := flag.String("to", filepath.Join(tools.Dir(), "bench"), "the folder for results.txt and results.svg")
	flag.Parse()
	ctx, _ := signal.NotifyContext(context.Background(), os.Interrupt)
	if err := run(ctx, *rounds, *requests, *connections, *to); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// route is one thing that is measured: requests for a host and path, and the processes that answer.
type route struct {
	name    string
	address string
	host    string
	path    string
	pids    []int
	cpu     []float64 // microseconds a request, one for each round
}

// group is routes that are compared with each other; the first is what the ratios are to.
type group struct {
	title  string
	routes []*route
}

func run(ctx context.Context, rounds, requests, connections int, dir string) error {
	servers, err := startServers(ctx)
	if err != nil {
		return err
	}
	defer servers.stop()
	groups := servers.groups()

	all := []*route{}
	for _, g := range groups {
		all = append(all, g.routes...)
	}
	for _, r := range all { // warms up, and checks
		if err := load(r, requests, connections); err != nil {
			return fmt.Errorf("%s: %w", r.name, err)
		}
	}
	for round := range rounds {
		rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		for _, r := range all {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			before, err := cpuTime(r.pids)
			if err != nil {
				return err
			}
			if err := load(r, requests, connections); err != nil {
				return fmt.Errorf("%s: %w", r.name, err)
			}
			after, err := cpuTime(r.pids)
			if err != nil {
				return err
			}
			r.cpu = append(r.cpu, float64((after-before).Nanoseconds())/1e3/float64(requests))
		}
		fmt.Fprintf(os.Stderr, "\rround %d of %d", round+1, rounds)
	}
	fmt.Fprintln(os.Stderr)
	startups, err := servers.startups(ctx, min(rounds, 10))
	if err != nil {
		return err
	}

	results, err := os.Create(filepath.Join(dir, "results.txt"))
	if err != nil {
		return err
	}
	defer results.Close()
	out := io.MultiWriter(os.Stdout, results)
	fmt.Fprintf(out, "CPU time of the server's process for each request: %d turns of %d requests, %d connections\n", rounds, requests, connections)
	for _, g := range groups {
		table(out, g)
	}
	startupTable(out, startups)
	return draw(groups, filepath.Join(dir, "results.svg"))
}

// cpuTime adds up what all threads of the processes have run, in nanoseconds, as the scheduler counts it.
func cpuTime(pids []int) (time.Duration, error) {
	total := time.Duration(0)
	for _, pid := range pids {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
		if err != nil || len(threads) == 0 {
			return 0, fmt.Errorf("process %d has ended", pid)
		}
		for _, thread := range threads {
			content, err := os.ReadFile(thread)
			if err != nil {
				return 0, err
			}
			var ran int64
			if _, err := fmt.Sscan(string(content), &ran); err != nil {
				return 0, err
			}
			total += time.Duration(ran)
		}
	}
	return total, nil
}

// load sends the requests over connections that are kept open, and wants 200 each time.
func load(r *route, requests, connections int) error {
	errs := make(chan error, connections)
	var wait sync.WaitGroup
	for range connections {
		wait.Add(1)
		go func() {
			defer wait.Done()
			errs <- send(r, requests/connections)
		}()
	}
	wait.Wait()
	close(errs)
	for err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func send(r *route, requests int) error {
	conn, err := net.Dial("tcp", r.address)
	if err != nil {
		return err
	}
	defer conn.Close()
	request := []byte("GET " + r.path + " HTTP/1.1\r\nHost: " + r.host + "\r\nAuthorization: Bearer syt_YWxpY2U_token\r\nAccept: */*\r\nUser-Agent: bench\r\n\r\n")
	reader := bufio.NewReader(conn)
	for range requests {
		if _, err := conn.Write(request); err != nil {
			return err
		}
		response, err := http.ReadResponse(reader, nil)
		if err != nil {
			return err
		}
		body, err := io.ReadAll(response.Body)
		if err != nil {
			return err
		}
		if response.StatusCode != http.StatusOK || len(body) == 0 && !strings.Contains(r.name, "ping") {
			return fmt.Errorf("%s from http://%s%s", response.Status, r.host, r.path)
		}
	}
	return nil
}
