use bylaw::{
    model::{config::*, files::*, tokenizer::Tokenizer, *},
    prompt::*,
    seed::Seed,
    train::{batch::*, optim::*, run::Setup, sft::*, *},
    world::World,
};
struct P(std::sync::atomic::AtomicUsize, std::sync::Mutex<std::time::Instant>);
impl bylaw::progress::Progress for P {
    fn start(&self, _: &str, t: u64, _: &'static str) {
        eprintln!("total {t}");
    }
    fn advance(&self, n: u64) {
        self.0.fetch_add(n as usize, std::sync::atomic::Ordering::Relaxed);
    }
    fn figure(&self, t: &str) {
        let n = self.0.load(std::sync::atomic::Ordering::Relaxed);
        if n % 100 == 0 {
            eprintln!("{n} {t} {:.1}s", self.1.lock().unwrap().elapsed().as_secs_f64())
        }
    }
    fn finish(&self) {}
    fn note(&self, _: &str) {}
}
fn main() {
    unsafe {
        libc::mallopt(libc::M_MMAP_MAX, 0);
        libc::mallopt(libc::M_TRIM_THRESHOLD, -1);
        libc::mallopt(libc::M_TOP_PAD, 64 << 20);
    }
    let a: Vec<String> = std::env::args().collect();
    let n: usize = a[1].parse().unwrap();
    let out = &a[2];
    let pw: f32 = a[3].parse().unwrap();
    let lr: f64 = a[4].parse().unwrap();
    let w = World::builtin().unwrap();
    let t = std::time::Instant::now();
    let docs = w.documents(n, Seed::new(11)).unwrap();
    eprintln!("docs {:.1}s", t.elapsed().as_secs_f64());
    let files = Tokenizer::train(
        docs.iter().take(20000).map(|d| format!("{}{}", d.prefix, d.completion)),
        1024,
    )
    .unwrap();
    eprintln!("tok {:.1}s", t.elapsed().as_secs_f64());
    let c = DecoderConfig {
        vocab: 1024,
        hidden: 128,
        intermediate: 344,
        layers: 4,
        heads: 4,
        kv_heads: 4,
        head_dim: 32,
        context: 256,
        rms_eps: 1e-5,
        rope_theta: 1e4,
        rope_scaling: RopeScaling::None,
        tied: true,
        qkv_bias: false,
    };
    let mut m = assemble_random(c, files, Seed::new(1)).unwrap();
    let templates = Templates::new(Style::Transcript);
    let enc = Encoder {
        tokenizer: &m.tokenizer,
        templates: &templates,
        context: 256,
    };
    let ex: Vec<_> = docs.iter().map(|d| enc.demonstration(d, pw).unwrap()).collect();
    let tok: usize = ex.iter().map(|e| e.sequence.tokens.len()).sum();
    eprintln!(
        "enc {:.1}s tokens {tok} mean {} max {}",
        t.elapsed().as_secs_f64(),
        tok / n,
        ex.iter().map(|e| e.sequence.tokens.len()).max().unwrap()
    );
    let cfg = SftConfig {
        epochs: 1,
        batch: BatchSize::Tokens(2560),
        prompt_loss_weight: pw,
        optim: OptimConfig {
            learning_rate: lr,
            adam_beta2: 0.98,
            weight_decay: 0.1,
            lr_scheduler: Schedule::Cosine,
            warmup_steps: 80,
            min_lr_ratio: 0.03,
            ..Default::default()
        },
    };
    let p = P(0.into(), std::sync::Mutex::new(std::time::Instant::now()));
    let t = std::time::Instant::now();
    m.decoder = train(
        Setup {
            dir: out.into(),
            fingerprint: "x".into(),
            label: "sft".into(),
            progress: &p,
            save_steps: 0,
        },
        &cfg,
        &m.decoder,
        &ex,
        Seed::new(3),
    )
    .unwrap();
    eprintln!(
        "train {:.1}s, {:.0} tok/s",
        t.elapsed().as_secs_f64(),
        tok as f64 / t.elapsed().as_secs_f64()
    );
    m.save(out.as_ref(), candle_core::DType::F16).unwrap();
}
use bylaw::train::sft::train;
