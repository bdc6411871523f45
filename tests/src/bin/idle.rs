//! Does nothing until it is killed, whatever its arguments are: stands for a machine monitor where there is none.

fn main() {
    loop {
        std::thread::park();
    }
}
