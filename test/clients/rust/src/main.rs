//! Drives a VMM through the crate `cloud-hypervisor-client`, in either of two versions. It reads
//! steps from stdin, one a line, and answers each with a line of JSON. The first surprise ends it
//! with exit code 1.
//!
//! Usage: rust-clients 0.3|0.6 SOCKET
//!
//! - `ping`: waits for the VMM, as a client that has just started it
//! - `create CONFIG`: vm.create; CONFIG is JSON of the crate's model, and so below
//! - `info STATE`: vm.info; the answer has the config as the crate decoded it
//! - `resize RESIZE`, `add-disk DISK`, `remove-device ID`
//! - `counters`, `boot`, `pause`, `resume`, `reboot`, `nmi`, `power-button`, `shutdown`, `delete`,
//!   `vmm.shutdown`

use serde_json::{json, Value};
use std::io::BufRead;
use std::time::Duration;

/// Long enough for a busy machine.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
const PING_INTERVAL: Duration = Duration::from_millis(10);

/// What is to be added to the answer, or what surprised.
type Outcome = Result<Value, String>;

/// The crate's versions share no types, so there is a driver of the same source for each.
macro_rules! driver {
    ($name:ident) => {
        mod $name {
            use super::{text, Outcome, ANSWER_TIMEOUT, PING_INTERVAL};
            use serde_json::{from_str, json};
            use std::time::Instant;
            use $name::apis::{DefaultApi, Error};
            use $name::models::VmRemoveDevice;

            pub fn connect(socket: &str) -> impl DefaultApi {
                $name::socket_based_api_client(socket)
            }

            pub async fn take(api: &impl DefaultApi, name: &str, argument: &str) -> Outcome {
                match name {
                    "ping" => ping(api).await,
                    "create" => done(api.create_vm(text(from_str(argument))?).await),
                    "info" => info(api, argument).await,
                    "counters" => api.vm_counters_get().await.map_err(said).map(|_| json!({})),
                    "boot" => done(api.boot_vm().await),
                    "resize" => done(api.vm_resize_put(text(from_str(argument))?).await),
                    "add-disk" => {
                        let device = api.vm_add_disk_put(text(from_str(argument))?).await;
                        device.map_err(said).map(|device| json!({ "device": device }))
                    }
                    "remove-device" => {
                        let id = Some(argument.to_string());
                        done(api.vm_remove_device_put(VmRemoveDevice { id }).await)
                    }
                    "pause" => done(api.pause_vm().await),
                    "resume" => done(api.resume_vm().await),
                    "reboot" => done(api.reboot_vm().await),
                    "nmi" => done(api.vmm_nmi_put().await),
                    "power-button" => done(api.power_button_vm().await),
                    "shutdown" => done(api.shutdown_vm().await),
                    "delete" => done(api.delete_vm().await),
                    "vmm.shutdown" => done(api.shutdown_vmm().await),
                    _ => Err(format!("there is no step {name}")),
                }
            }

            fn said(error: Error) -> String {
                format!("{error:?}")
            }

            fn done(result: Result<(), Error>) -> Outcome {
                result.map_err(said).map(|()| json!({}))
            }

            async fn ping(api: &impl DefaultApi) -> Outcome {
                let end = Instant::now() + ANSWER_TIMEOUT;
                loop {
                    match api.vmm_ping_get().await {
                        Ok(pong) if pong.version.is_empty() => {
                            return Err("the ping's version is empty".to_string())
                        }
                        Ok(_) => return Ok(json!({})),
                        Err(Error::Api(refused)) => return Err(said(Error::Api(refused))),
                        Err(error) if Instant::now() > end => return Err(said(error)),
                        Err(_) => tokio::time::sleep(PING_INTERVAL).await,
                    }
                }
            }

            async fn info(api: &impl DefaultApi, state: &str) -> Outcome {
                let info = api.vm_info_get().await.map_err(said)?;
                if format!("{:?}", info.state) != state {
                    return Err(format!("the state is {:?}, not {state}", info.state));
                }
                Ok(json!({ "state": state, "config": info.config }))
            }
        }
    };
}

driver!(client_0_3);
driver!(client_0_6);

fn text<T>(result: Result<T, serde_json::Error>) -> Result<T, String> {
    result.map_err(|error| error.to_string())
}

async fn run(version: &str, socket: &str) -> bool {
    let old = client_0_3::connect(socket);
    let new = client_0_6::connect(socket);
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        let (name, argument) = line.split_once(' ').unwrap_or((&line, ""));
        let outcome = match version {
            "0.3" => client_0_3::take(&old, name, argument).await,
            _ => client_0_6::take(&new, name, argument).await,
        };
        let mut answer = json!({ "step": name });
        let failed = outcome.is_err();
        match outcome {
            Ok(Value::Object(more)) => answer.as_object_mut().into_iter().for_each(|fields| {
                fields.extend(more.clone());
            }),
            Ok(_) => {}
            Err(error) => answer["error"] = json!(error),
        }
        println!("{answer}");
        if failed {
            return false;
        }
    }
    true
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [version, socket] = args.as_slice() else {
        eprintln!("Usage: rust-clients 0.3|0.6 SOCKET < STEPS");
        std::process::exit(2);
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let ok = runtime.expect("a runtime").block_on(run(version, socket));
    std::process::exit(if ok { 0 } else { 1 });
}
