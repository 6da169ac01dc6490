package stack

import (
	"encoding/json"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// Container is what Traefik's Docker provider reads of a container. Its address is 127.0.0.1.
type Container struct {
	Name   string
	Labels map[string]string
}

// Docker answers the calls that Traefik's Docker provider makes, where there is no Docker engine,
// so that labels go through the provider that reads them in production.
type Docker struct {
	server   *http.Server
	endpoint string

	mu         sync.Mutex
	containers []Container
	changed    chan struct{} // closed at the next change
}

// ServeDocker starts it on a free port of the loopback interface.
func ServeDocker(containers ...Container) (*Docker, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	d := &Docker{endpoint: "tcp://" + listener.Addr().String(), containers: containers, changed: make(chan struct{})}
	d.server = &http.Server{Handler: d, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = d.server.Serve(listener) }()
	return d, nil
}

// Set replaces the containers, as if they had all been started anew.
func (d *Docker) Set(containers ...Container) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.containers = containers
	close(d.changed)
	d.changed = make(chan struct{})
}

// Close stops it.
func (d *Docker) Close() { _ = d.server.Close() }

type object = map[string]any

func (d *Docker) ServeHTTP(rw http.ResponseWriter, req *http.Request) {
	d.mu.Lock()
	containers, changed := d.containers, d.changed
	d.mu.Unlock()
	// Paths are /v1.51/containers/… once the client knows the version.
	_, path, _ := strings.Cut(strings.TrimPrefix(req.URL.Path, "/"), "/")
	rw.Header().Set("Api-Version", "1.51")
	switch {
	case req.URL.Path == "/_ping":
	case path == "version":
		reply(rw, object{"Version": "28.5.2", "ApiVersion": "1.51"})
	case path == "containers/json":
		list := []object{}
		for _, c := range containers {
			list = append(list, object{"Id": c.Name})
		}
		reply(rw, list)
	case path == "events":
		events(rw, req, changed)
	default:
		for _, c := range containers {
			if path == "containers/"+c.Name+"/json" {
				reply(rw, object{
					"Id": c.Name, "Name": "/" + c.Name,
					"State":           object{"Status": "running", "Running": true},
					"Config":          object{"Labels": c.Labels},
					"HostConfig":      object{"NetworkMode": "demo"},
					"NetworkSettings": object{"Networks": object{"demo": object{"IPAddress": "127.0.0.1"}}},
				})
				return
			}
		}
		http.NotFound(rw, req)
	}
}

func reply(rw http.ResponseWriter, value any) {
	rw.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(rw).Encode(value)
}

// events sends one event for the next change and closes the stream; the client comes back.
func events(rw http.ResponseWriter, req *http.Request, changed <-chan struct{}) {
	rw.WriteHeader(http.StatusOK)
	_ = http.NewResponseController(rw).Flush()
	select {
	case <-changed:
		reply(rw, object{"Type": "container", "Action": "start"})
	case <-req.Context().Done():
	}
}
